"""`python -m bytelm` is the command `bytelm`."""

from bytelm.entry_point import run

run()

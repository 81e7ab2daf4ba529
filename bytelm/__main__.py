"""`python -m bytelm` is the command `bytelm`."""

from bytelm.cli.entry_point import run

run()

"""`python -m bytelm` is the command `bytelm`."""

import sys

from bytelm.cli import main

sys.exit(main())

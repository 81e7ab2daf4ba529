"""Evaluates a checkpoint: `python eval.py --checkpoint RUN`, the same as `bytelm eval`."""

import sys

from bytelm.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))

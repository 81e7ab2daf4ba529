"""Evaluates a checkpoint: `python eval.py --checkpoint RUN`, the same as `bytelm eval`."""

import sys

from bytelm.cli.entry_point import run

if __name__ == "__main__":
    run(["eval", *sys.argv[1:]])

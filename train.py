"""Trains a model: `python train.py PRESET [--options]`, the same as `bytelm train`."""

import sys

from bytelm.cli.entry_point import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])

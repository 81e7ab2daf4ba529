"""Trains a model: `python train.py PRESET [--options]`, the same as `bytelm train`."""

import sys

from bytelm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

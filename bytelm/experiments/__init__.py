"""Ablations and comparisons: several models trained and evaluated in the same way."""

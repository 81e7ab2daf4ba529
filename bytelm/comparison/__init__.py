"""Comparison: several models trained and evaluated alike, in one table and one plot."""

"""Metrics of a run: records, files, and the display."""

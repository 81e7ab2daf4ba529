"""Training tasks: next bytes, corrupted spans, pairs, synthetic tasks."""

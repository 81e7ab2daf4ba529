"""Checkpoints: written whole, read with their digests, the best one kept, exported."""

"""Evaluation: exact bits per byte, its uncertainty, and what to compare it with."""

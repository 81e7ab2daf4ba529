"""Evaluation: exact bits per byte, their uncertainty, and what to compare them with."""

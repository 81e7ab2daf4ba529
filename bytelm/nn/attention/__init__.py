"""Attention: one entry point, and its implementations."""

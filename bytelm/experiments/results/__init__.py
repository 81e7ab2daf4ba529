"""Runs and evaluations in one table: collected, grouped by text, compared and written."""

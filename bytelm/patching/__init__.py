"""Where patches start, and how bytes become patches and patches bytes."""

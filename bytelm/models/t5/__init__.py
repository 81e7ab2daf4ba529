"""T5's family: ByT5, and MrT5 that deletes bytes in its encoder."""

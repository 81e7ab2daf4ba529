"""Published training recipes, and what presets share."""

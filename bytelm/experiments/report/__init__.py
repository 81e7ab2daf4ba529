"""The report of an ablation or a comparison: tables, charts, a page."""

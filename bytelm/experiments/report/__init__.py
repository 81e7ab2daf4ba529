"""What an ablation or a comparison shows: tables, charts, a page."""

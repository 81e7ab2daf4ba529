"""Tasks from files: questions whose answers are written or chosen."""

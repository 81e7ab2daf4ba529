"""What everything stands on: errors, typed variants, files, the terminal."""

"""Where documents come from: files, TFDS, Python's own library."""

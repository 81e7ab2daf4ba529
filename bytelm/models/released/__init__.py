"""The formats of checkpoints that others have released: a file for each."""

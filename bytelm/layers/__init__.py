"""Building blocks that the model families compose. Nothing here knows of training."""

"""What a model is trained to predict: corrupted spans, pairs, synthetic tasks."""

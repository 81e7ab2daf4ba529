"""Files compressed with a model's probabilities: as small as the model's bits say, and exact."""

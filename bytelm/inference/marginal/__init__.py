"""Byte probabilities of subword models, exact: all ways to cut a text are summed."""

"""Inference: generating bytes from a trained model."""

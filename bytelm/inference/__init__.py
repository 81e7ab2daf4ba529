"""Using a trained model: scoring, generating, segmentation."""

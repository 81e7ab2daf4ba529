"""Model families, one file each. Importing this package registers them all."""

from bytelm.models import transformer as transformer
from bytelm.models.contract import Batch, LanguageModel, ModelConfig, ModelOutput, target_nats

__all__ = ["Batch", "LanguageModel", "ModelConfig", "ModelOutput", "target_nats"]

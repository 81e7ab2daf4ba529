"""Model families, one file each. Importing this package registers them, and all segmenters."""

from bytelm.models import aunet as aunet
from bytelm.models import blt as blt
from bytelm.models import dynamic_pooling as dynamic_pooling
from bytelm.models import entropy_patches as entropy_patches
from bytelm.models import hat as hat
from bytelm.models import hat2 as hat2
from bytelm.models import hnet as hnet
from bytelm.models import mamba as mamba
from bytelm.models import megabyte as megabyte
from bytelm.models import spacebyte as spacebyte
from bytelm.models import transformer as transformer
from bytelm.models.contract import Batch, LanguageModel, ModelConfig, ModelOutput
from bytelm.models.t5 import byt5 as byt5
from bytelm.models.t5 import mrt5 as mrt5
from bytelm.patching import learned as learned
from bytelm.patching import router as router

__all__ = ["Batch", "LanguageModel", "ModelConfig", "ModelOutput"]

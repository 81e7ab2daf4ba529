"""SpaceByte's grid at 1e19 training FLOPs: D 768, d 512, 12 + 12 blocks."""

from bytelm.recipes.spacebyte import spacebyte

config = spacebyte(global_width=768, local_width=512, global_depth=12, local_depth=12, budget=1e19)

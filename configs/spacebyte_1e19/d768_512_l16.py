"""SpaceByte's grid at 1e19 training FLOPs: D 768, d 512, 16 + 16 blocks."""

from bytelm.recipes.spacebyte import spacebyte

config = spacebyte(global_width=768, local_width=512, global_depth=16, local_depth=16, budget=1e19)

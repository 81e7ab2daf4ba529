"""SpaceByte's grid at 1e19 training FLOPs: D 1024, d 768, 16 + 16 blocks."""

from bytelm.recipes.spacebyte import spacebyte

config = spacebyte(global_width=1024, local_width=768, global_depth=16, local_depth=16, budget=1e19)

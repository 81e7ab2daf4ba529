"""SpaceByte's grid at 1e18 training FLOPs: D 512, d 256, 8 + 8 blocks."""

from bytelm.recipes.spacebyte import spacebyte

config = spacebyte(global_width=512, local_width=256, global_depth=8, local_depth=8, budget=1e18)

"""SpaceByte's grid at 1e18 training FLOPs: D 512, d 256, 12 + 12 blocks."""

from bytelm.recipes.spacebyte import spacebyte

config = spacebyte(global_width=512, local_width=256, global_depth=12, local_depth=12, budget=1e18)

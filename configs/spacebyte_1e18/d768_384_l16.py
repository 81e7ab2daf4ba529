"""SpaceByte's grid at 1e18 training FLOPs: D 768, d 384, 16 + 16 blocks."""

from bytelm.recipes.spacebyte import spacebyte

config = spacebyte(global_width=768, local_width=384, global_depth=16, local_depth=16, budget=1e18)

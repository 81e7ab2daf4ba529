"""MegaByte at 1e19 training FLOPs with patches of 8, as SpaceByte's authors trained it."""

from bytelm.recipes.spacebyte import megabyte

config = megabyte(
    patch_size=8,
    global_width=1024,
    local_width=512,
    global_depth=16,
    local_depth=16,
    budget=1e19,
)

"""SpaceByte++ (arXiv 2507.07955), L: SpaceByte with Mamba-2 for local blocks, and H-Net's sizes."""

from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.recipes.hnet import run

config = run(
    SpaceByteConfig(
        local_width=1024,
        local_layout=("m4", "m4"),
        global_width=1536,
        global_depth=28,
        qk_norm=False,
        remat="dots",
    ),
    learning_rate=6.25e-4,
)

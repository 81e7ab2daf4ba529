"""H-Net with two stages, L: 870M parameters, as published."""

from bytelm.recipes.hnet import hnet

config = hnet(
    layout="m4 [T1m4 [T26] m4T1] m4",
    widths=(1024, 1024, 1536),
    mlp_widths=(0, 2816, 4096),
    learning_rate=6.25e-4,
)

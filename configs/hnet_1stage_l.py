"""H-Net with one stage, L: 680M parameters, as published."""

from bytelm.recipes.hnet import hnet

config = hnet(
    layout="m4 [T22] m4", widths=(1024, 1536), mlp_widths=(0, 4096), learning_rate=6.25e-4
)

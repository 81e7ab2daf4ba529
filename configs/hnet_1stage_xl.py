"""H-Net with one stage, XL: 1.3B parameters, as published."""

from bytelm.recipes.hnet import hnet

config = hnet(layout="m4 [T24] m4", widths=(1024, 2048), mlp_widths=(0, 5504), learning_rate=5e-4)

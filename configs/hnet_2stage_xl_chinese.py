"""H-Net with two stages, XL, for Chinese: 1.8B parameters, as published."""

from bytelm.recipes.hnet import hnet

config = hnet(
    layout="m4 [T1m4 [T30] m4T1] m4",
    widths=(1024, 1536, 2048),
    mlp_widths=(0, 4096, 5504),
    learning_rate=5e-4,
)

"""AU-Net of bytes, words and pairs, 2.5B parameters, as in the authors' code ("2B_2level")."""

from bytelm.recipes.aunet import aunet

config = aunet(
    widths=(512, 2048, 3456),
    depths=(3, 6, 12),
    slots=(1600, 928),
    learning_rate=0.0011,
    final=0.001,
    steps=300_000,
    rows=704,
)

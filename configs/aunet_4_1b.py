"""AU-Net of bytes, words, pairs and groups of four words, 4.2B parameters: the paper's widths."""

from bytelm.recipes.aunet import aunet

config = aunet(
    widths=(512, 2048, 3072, 4608),
    depths=(3, 3, 4, 10),
    slots=(1600, 928, 576),
    learning_rate=0.001,
    final=0.001,
    steps=300_000,
    rows=704,
)

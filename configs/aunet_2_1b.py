"""AU-Net of bytes and words, 1.3B parameters, as in the authors' code ("2B_1level")."""

from bytelm.recipes.aunet import aunet

config = aunet(
    widths=(512, 2048),
    depths=(3, 25),
    slots=(3200,),
    learning_rate=0.00165,
    final=0.01,
    steps=180_000,
    rows=1152,
)

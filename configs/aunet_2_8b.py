"""AU-Net of bytes and words, 8.0B parameters: the paper's widths, MLPs and learning rate."""

from bytelm.recipes.aunet import aunet

config = aunet(
    widths=(1024, 4096),
    depths=(3, 32),
    mlp_widths=(4096, 14336),
    slots=(3200,),
    learning_rate=0.000818,
    final=0.01,
    steps=109_000,
    rows=1024,
    fsdp=8,
)

"""H-Net (space), L: one stage whose patches start where words do, as published."""

from bytelm.patching.segmenter import RulePatches
from bytelm.recipes.hnet import hnet

config = hnet(
    layout="m4 [T28] m4",
    widths=(1024, 1536),
    mlp_widths=(0, 4096),
    learning_rate=6.25e-4,
    segmenter=RulePatches("spacelike"),
)

"""H-Net (space), XL: one stage whose patches start where words do, as published."""

from bytelm.patching.segmenter import RulePatches
from bytelm.recipes.hnet import hnet

config = hnet(
    layout="m4 [T31] m4",
    widths=(1024, 2048),
    mlp_widths=(0, 5504),
    learning_rate=5e-4,
    segmenter=RulePatches("spacelike"),
)

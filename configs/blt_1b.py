"""BLT 1B as released: 4.53B parameters, of which 3.07B are tables of n-grams.

    bytelm train entropy_100m --run-dir runs/entropy_100m
    bytelm data entropies --checkpoint runs/entropy_100m     # the threshold for 4.5 bytes per patch
    bytelm train blt_1b --model.segmenter.threshold THRESHOLD

The last one names another run of an entropy model with `--model.segmenter.checkpoint`.
"""

from bytelm.recipes.blt import blt, published

config = blt(
    published(
        local_width=1024,
        local_mlp_width=2816,
        decoder_depth=9,
        global_width=2048,
        global_depth=25,
        global_mlp_width=5632,
        vectors=2,
    ),
    final=0.01,
)

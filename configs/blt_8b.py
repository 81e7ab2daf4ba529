"""BLT 8B (released as 7B): 10.55B parameters, of which 3.84B are tables of n-grams.

Made like `blt_1b`. The paper's largest run begins the context of its entropy model again at each
newline and cuts where entropy rises: `--model.segmenter.reset True --model.segmenter.threshold None
--model.segmenter.rise 0.6`.
"""

from bytelm.recipes.blt import blt, published

config = blt(
    published(
        local_width=1280,
        local_mlp_width=3456,
        decoder_depth=6,
        global_width=4096,
        global_depth=32,
        global_mlp_width=11008,
        vectors=4,
    )
)

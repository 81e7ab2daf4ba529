"""A tiny config of every family and variant.

A new family or variant is one line in FAMILIES, and all laws of `test_laws.py` and
`test_laws_of_training.py` hold it to account. An encoder-decoder is a line in ENCODER_DECODERS: it
has its own laws in `test_encoder_decoder.py`.
"""

import functools

from bytelm.models import ModelConfig
from bytelm.models.aunet import AUNetConfig
from bytelm.models.blt import BLTConfig
from bytelm.models.draft import BlockDraft, ChainDraft
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.hat import HATConfig
from bytelm.models.hat2 import HAT2Config
from bytelm.models.hnet import HNetConfig
from bytelm.models.mamba import MambaConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import (
    BoundaryShortening,
    ConvolutionShortening,
    FixedShortening,
    GateShortening,
    RandomShortening,
)
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.learned import (
    EntropyPatches,
    FlexitokensPatches,
    GumbelPatches,
    UnigramPatches,
)
from bytelm.patching.router import RouterPatches
from bytelm.patching.segmenter import FixedPatches, RulePatches
from tests.models.nested import NestedConfig

# Few rows, so that n-grams share them.
ngrams = {"ngrams": (2, 3, 5), "ngram_functions": 2, "ngram_rows": 32}
small = functools.partial(TransformerConfig, width=32, depth=2, head_width=8, mlp_width=48)
mamba = functools.partial(
    MambaConfig, width=16, head_width=8, mlp_width=24, state_width=6, layout="m2", chunk=4
)
levels = {"local_width": 16, "global_width": 32, "global_depth": 1, "head_width": 8}
# A slot for every symbol; the variants that overflow have fewer.
spacebyte = functools.partial(SpaceByteConfig, **levels, local_depth=2, bytes_per_slot=1.0)
megabyte = functools.partial(
    MegaByteConfig, **levels, local_depth=1, patch_size=4, bytes_per_slot=1.0
)
word_levels = {**levels, "encoder_depth": 1, "decoder_depth": 1, "bytes_per_slot": 1.0}
hat = functools.partial(
    HATConfig, **word_levels, segmenter=RulePatches("whitespace_run", longest_patch=5)
)
hat2 = functools.partial(HAT2Config, **word_levels, segmenter=RulePatches("words", longest_patch=5))
dynamic_pooling = functools.partial(
    DynamicPoolingConfig,
    width=16,
    head_width=8,
    pre_depth=1,
    backbone_depth=1,
    post_depth=1,
    bytes_per_slot=1.0,
)

hnet = functools.partial(
    HNetConfig, widths=(16, 24), head_width=8, state_width=6, chunk=4, bytes_per_slot=1.0
)
aunet = functools.partial(
    AUNetConfig,
    widths=(16, 24),
    depths=(1, 1),
    windows=(5, None),
    head_width=8,
    bytes_per_slot=1.0,
)
blt = functools.partial(
    BLTConfig,
    local_width=16,
    global_width=24,
    global_depth=1,
    head_width=8,
    window=5,
    decoder_depth=2,
    **ngrams,
    segmenter=RulePatches("spacelike", longest_patch=4),
    bytes_per_slot=1.0,
)
nested = functools.partial(
    NestedConfig, head_width=8, segmenter=RulePatches("spacelike", longest_patch=2)
)

FAMILIES: dict[str, ModelConfig] = {
    "transformer": small(),
    "transformer, window, grouped and qk-norm": small(
        window=5, key_value_heads=2, qk_norm=True, mlp="relu"
    ),
    "transformer, n-grams": small(depth=1, **ngrams),
    "transformer of many tokens, tied, gelu, scanned and rematerialised": small(
        vocabulary=3000, tied_head=True, mlp="gelu", scan=True, remat="full"
    ),
    "transformer, biases, norms after and over all heads, published symbols": small(
        qkv_bias=True,
        norm_after=True,
        qk_norm=True,
        qk_norm_over="all",
        key_value_heads=2,
        norm_epsilon=1e-3,
        rope_scaling=(8.0, 1.0, 4.0, 100.0),
        start_row=254,
        end_row=255,
        spare_rows=3,
    ),
    "transformer, window, draft blocks on a shortened trunk": small(
        depth=2, window=5, draft=BlockDraft(3, shortened=True)
    ),
    "mamba": mamba(),
    "mamba, MLPs and attention, scanned and rematerialised": mamba(
        layout="M1t1m1T1", window=5, chunk=8, convolution_width=3, scan=True, remat="full"
    ),
    "spacebyte": spacebyte(window=5),
    "spacebyte, draft chain": spacebyte(window=5, draft=ChainDraft(4)),
    "spacebyte, published block, fixed patches, overflow": spacebyte(
        norm="layer",
        mlp="relu",
        rope_theta=None,
        learned_positions=12,
        scaled_init=False,
        segmenter=FixedPatches(3),
        bytes_per_slot=5.0,
    ),
    "spacebyte, sampled, overflow": spacebyte(segmenter=GumbelPatches(0.4), bytes_per_slot=4.0),
    "spacebyte, router": spacebyte(segmenter=RouterPatches()),
    "spacebyte, entropy model": spacebyte(
        segmenter=EntropyModelPatches(
            threshold=2.5,
            longest_patch=4,
            model=TransformerConfig(width=8, head_width=8, depth=1, window=5),
        )
    ),
    "spacebyte, Mamba-2, n-grams": spacebyte(
        local_layout=("m1", "t1m1"), state_width=6, chunk=4, **ngrams
    ),
    "spacebyte, unigram, layer norm": spacebyte(segmenter=UnigramPatches(0.5), norm="layer"),
    "megabyte": megabyte(),
    "megabyte, published block, n-grams, overflow": megabyte(
        **ngrams,
        norm="layer",
        mlp="relu",
        rope_theta=None,
        learned_positions=12,
        scaled_init=False,
        bytes_per_slot=6.0,
    ),
    "hat": hat(),
    "hat, overflow": hat(bytes_per_slot=6.0),
    "hat2": hat2(window=6),
    "hat2, whitespace, overflow, scanned and rematerialised": hat2(
        segmenter=RulePatches("whitespace", longest_patch=5),
        window=None,
        scan=True,
        remat="full",
        bytes_per_slot=4.0,
    ),
    "hat, fixed, n-grams": hat(segmenter=FixedPatches(4), **ngrams),
    "hat2, entropy, n-grams": hat2(segmenter=EntropyPatches(rate=0.5), **ngrams),
    "dynamic_pooling, words": dynamic_pooling(segmenter=RulePatches("words", longest_patch=4)),
    "dynamic_pooling, whitespace": dynamic_pooling(
        segmenter=RulePatches("whitespace", longest_patch=4)
    ),
    "dynamic_pooling, fixed, n-grams": dynamic_pooling(segmenter=FixedPatches(3), **ngrams),
    "dynamic_pooling, entropy, scanned and rematerialised": dynamic_pooling(
        segmenter=EntropyPatches(), scan=True, remat="full"
    ),
    "dynamic_pooling, unigram": dynamic_pooling(segmenter=UnigramPatches()),
    "dynamic_pooling, flexitokens, no inner norms": dynamic_pooling(
        segmenter=FlexitokensPatches(), inner_norms=False
    ),
    "dynamic_pooling, published blocks": dynamic_pooling(
        segmenter=GumbelPatches(published=True),
        boundary_gradient="published",
        published_blocks=True,
        mlp="gelu",
    ),
    "dynamic_pooling, spacelike, overflow": dynamic_pooling(
        segmenter=RulePatches("spacelike"), bytes_per_slot=4.0
    ),
    "dynamic_pooling, router": dynamic_pooling(segmenter=RouterPatches()),
    "dynamic_pooling, gumbel": dynamic_pooling(),
    "hnet, attention": hnet(layout="T1 [t1] T1", windows=(5, None), heads=(2, 2)),
    "hnet, two stages, Mamba-2, overflow": hnet(
        layout="m1 [T1m1 [T1] m1] m1",
        widths=(16, 16, 24),
        windows=(5, 4, None),
        bytes_per_slot=2.0,
        patches_per_slot=(2.0,),
    ),
    "hnet, published symbols, scanned and rematerialised": hnet(
        layout="m2 [M1] T1", published_symbols=True, scan=True, remat="full"
    ),
    "hnet, space, n-grams": hnet(
        layout="m1 [T1] m1", segmenter=RulePatches("spacelike", longest_patch=4), **ngrams
    ),
    "aunet": aunet(depths=(2, 1)),
    "aunet of bytes, words and pairs, overflow, scanned and rematerialised": aunet(
        widths=(16, 24, 32),
        depths=(2, 1, 1),
        windows=(5, 4, None),
        bytes_per_slot=2.0,
        patches_per_slot=(2.0,),
        scan=True,
        remat="full",
    ),
    "aunet of four widths, published block, n-grams": aunet(
        **ngrams,
        widths=(16, 16, 24, 24),
        depths=(1, 1, 1, 1),
        windows=(5, 4, 3, 4),
        head_widths=(8, 16, 12, 8),
        patches_per_slot=(1.0, 1.0),
        qk_norm=False,
        scaled_init=False,
    ),
    "blt": blt(global_width=32, global_head_width=16),
    "blt, all layers, several patches, mean, grouped, overflow, scanned and rematerialised": blt(
        encoder_depth=2,
        encoder_cross="all",
        encoder_patches=2,
        decoder_patches=3,
        pooling=("avg",),
        cross_heads=1,
        local_key_value_heads=1,
        global_key_value_heads=1,
        bytes_per_slot=4.0,
        scan=True,
        remat="full",
    ),
    "blt, entropy model, first layer, unbounded patches, published block": blt(
        decoder_cross="first",
        segmenter=EntropyModelPatches(
            threshold=2.5, model=TransformerConfig(width=8, head_width=8, depth=1, window=5)
        ),
        scaled_init=False,
        qk_norm=False,
        published_symbols=True,
    ),
    "blt without cross-attention": blt(
        encoder_cross="none", decoder_cross="none", pooling=("max", "min"), encoder_depth=2
    ),
    "nested": nested(bytes_per_slot=1.0, patches_per_slot=1.0),
    "nested, overflow": nested(bytes_per_slot=2.0, patches_per_slot=2.0),
}

# Laws that speak of a row or of decoding hold for each of FAMILIES. Those of a step say something
# new of what only a new kind of parameter, block or loss can break: they hold for those below.
SHARDED = (
    "transformer, window, grouped and qk-norm",
    "transformer of many tokens, tied, gelu, scanned and rematerialised",
    "transformer, biases, norms after and over all heads, published symbols",
    "transformer, window, draft blocks on a shortened trunk",
    "mamba, MLPs and attention, scanned and rematerialised",
    "spacebyte, published block, fixed patches, overflow",
    "spacebyte, draft chain",
    "spacebyte, entropy model",
    "spacebyte, Mamba-2, n-grams",
    "megabyte",
    "hat",
    "hat2, whitespace, overflow, scanned and rematerialised",
    "dynamic_pooling, unigram",
    "dynamic_pooling, published blocks",
    "dynamic_pooling, flexitokens, no inner norms",
    "hnet, two stages, Mamba-2, overflow",
    "aunet of four widths, published block, n-grams",
    "blt, all layers, several patches, mean, grouped, overflow, scanned and rematerialised",
    "nested, overflow",
)
"""Every kind of parameter, and blocks in a row and scanned."""
TAKEN_BACK = (
    "transformer, n-grams",
    "transformer, window, draft blocks on a shortened trunk",
    "mamba",
    "mamba, MLPs and attention, scanned and rematerialised",
    "spacebyte, router",
    "spacebyte, sampled, overflow",
    "spacebyte, unigram, layer norm",
    "spacebyte, published block, fixed patches, overflow",
    "megabyte",
    "hat",
    "hat2, entropy, n-grams",
    "dynamic_pooling, gumbel",
    "dynamic_pooling, fixed, n-grams",
    "dynamic_pooling, flexitokens, no inner norms",
    "hnet, space, n-grams",
    "hnet, two stages, Mamba-2, overflow",
    "aunet of bytes, words and pairs, overflow, scanned and rematerialised",
    "blt",
    "blt without cross-attention",
    "blt, entropy model, first layer, unbounded patches, published block",
    "nested, overflow",
)
"""Every kind of decoding state."""
TRAINED = (
    "transformer, n-grams",
    "mamba",
    "spacebyte, router",
    "megabyte",
    "hat",
    "hat2, entropy, n-grams",
    "dynamic_pooling, gumbel",
    "hnet, attention",
    "aunet",
    "blt",
    "nested",
)
"""For checkpoints, which hold what a family trains."""
ACCUMULATED = (
    "transformer, n-grams",
    "transformer, window, draft blocks on a shortened trunk",
    "spacebyte, router",
    "hnet, attention",
    "hat2, entropy, n-grams",
    "dynamic_pooling, unigram",
    "dynamic_pooling, gumbel",
)
"""Tables of n-grams; draft heads and segmenters, which have losses or noise of their own."""

t5 = {
    "width": 16,
    "encoder_depth": 3,
    "decoder_depth": 2,
    "heads": 4,
    "head_width": 8,
    "mlp_width": 24,
}
mrt5 = functools.partial(MrT5Config, **t5, gate_depth=1)
# What shortens otherwise differs between the blocks alone, of which fewer compile faster.
shallow = functools.partial(mrt5, encoder_depth=2, decoder_depth=1)

ENCODER_DECODERS: dict[str, EncoderDecoderConfig] = {
    "byt5": ByT5Config(**t5),
    "mrt5": mrt5(shortening=GateShortening(target=0.5, score_weight=0.5, noise=True)),
    "mrt5, softmax1, scanned and rematerialised": mrt5(softmax1=True, scan=True, remat="full"),
    "mrt5, random": shallow(shortening=RandomShortening()),
    "mrt5, fixed": shallow(shortening=FixedShortening()),
    "mrt5, boundary": shallow(shortening=BoundaryShortening()),
    "mrt5, convolution": shallow(shortening=ConvolutionShortening(stride=3)),
}
STEPPED = ("byt5", "mrt5", "mrt5, softmax1, scanned and rematerialised", "mrt5, convolution")
"""Every kind of parameter and loss, for the law of steps in micro-batches and on a mesh."""

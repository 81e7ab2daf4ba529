"""Bytes against subwords at equal FLOPs of training, on a CPU: two and a half hours on two cores.

The text is English books and documentation as JSON lines, in the directory `--root`.
All contenders have sizes that take about the same FLOPs per byte, so equal FLOPs are also about
equal text.
"""

from bytelm.data.config import DataConfig, Files
from bytelm.evaluation.robustness import Robustness
from bytelm.experiments.comparison import Comparison, Contender, TokenizerConfig
from bytelm.models import ModelConfig
from bytelm.models.aunet import AUNetConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.hat import HATConfig
from bytelm.models.hnet import HNetConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.learned import GumbelPatches
from bytelm.patching.router import RouterPatches
from bytelm.patching.segmenter import RulePatches
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig

CONTEXT = 512
"""Bytes."""
BYTES_PER_TOKEN = 3.2
VOCABULARY = 4096


def contender(
    model: ModelConfig, tokenizer: TokenizerConfig | None = None, *, learning_rate: float = 2e-2
) -> Contender:
    """All rows hold the same bytes on average; the rate is the middle of the sweep."""
    length = CONTEXT if tokenizer is None else round(CONTEXT / BYTES_PER_TOKEN)
    config = ExperimentConfig(
        model=model,
        data=DataConfig(sequence_length=length, batch_size=8),
        optimizer=small_muon(learning_rate),
    )
    return Contender(config, tokenizer)


def subword(kind: str, learning_rate: float) -> Contender:
    """The flat Transformer of tokens."""
    model = TransformerConfig(width=160, depth=4, head_width=32, vocabulary=VOCABULARY)
    return contender(model, TokenizerConfig(kind, VOCABULARY), learning_rate=learning_rate)


def pooled(segmenter: object, bytes_per_slot: float) -> Contender:
    """The hourglass."""
    return contender(
        DynamicPoolingConfig(
            width=112,
            head_width=28,
            pre_depth=1,
            backbone_depth=4,
            post_depth=1,
            segmenter=segmenter,
            bytes_per_slot=bytes_per_slot,
        )
    )


comparison = Comparison(
    title="Bytes and subwords at equal FLOPs of training, on a CPU",
    contenders={
        "bytes": contender(TransformerConfig(width=96, depth=4, head_width=32)),
        "bytes_window": contender(TransformerConfig(width=96, depth=4, head_width=32, window=128)),
        "megabyte": contender(
            MegaByteConfig(
                local_width=96, local_depth=3, global_width=192, global_depth=3, head_width=32,
                patch_size=4, bytes_per_slot=4.0,
            ),
            learning_rate=1e-2,
        ),
        "spacebyte": contender(
            SpaceByteConfig(
                local_width=80, local_depth=4, global_width=160, global_depth=3, head_width=16,
                window=128, bytes_per_slot=4.0,
            )
        ),
        "hat": contender(
            HATConfig(
                local_width=80, encoder_depth=1, decoder_depth=2, global_width=160, global_depth=3,
                head_width=16, bytes_per_slot=3.5,
            )
        ),
        "hnet": contender(
            HNetConfig(
                layout="m2 [T3] m2", widths=(80, 160), head_width=16, state_width=32,
                segmenter=RouterPatches(target=4.0), deviation=None,
            )
        ),
        "aunet": contender(
            AUNetConfig(
                widths=(80, 128, 192), depths=(1, 1, 3), windows=(128, None, None), head_width=16,
                bytes_per_slot=4.0,
            )
        ),
        "pooling_whitespace": pooled(RulePatches("whitespace"), 4.0),
        "pooling_learned": pooled(GumbelPatches(rate=0.2), 3.5),
        "bpe": subword("bpe", 5e-3),
        "unigram": subword("unigram", 1e-2),
    },
    baseline="bpe",
    budgets=(2e12, 1e13),
    corpora={
        "english": DataConfig(
            source=Files(
                files=(
                    "core/eng_books.train.jsonl.xz",
                    "core/docs.train.jsonl.xz",
                ),
                validation_files=("core/eng_books.valid.jsonl.xz", "core/docs.valid.jsonl.xz"),
                test_files=("core/eng_books.test.jsonl.xz", "core/docs.test.jsonl.xz"),
            )
        )
    },
    learning_rates=(0.5, 1.0, 2.0),
    shard_bytes=CONTEXT,
    robustness=Robustness(rates=(0.05, 0.15)),
    parallel=("core/pud.test.jsonl.xz",),
)  # fmt: skip

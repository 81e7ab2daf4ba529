"""Bytes against subwords at 1e17 FLOPs of training, on a GPU.

The text is English books and documentation as JSON lines, in the directory `--root`. Runs
stop at SIGTERM and continue with the same command, so they fit short jobs of a cluster.
"""

from bytelm.data.config import DataConfig, Files
from bytelm.evaluation.robustness import Robustness
from bytelm.experiments.comparison import Comparison, Contender, TokenizerConfig
from bytelm.models import ModelConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.hat import HATConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.learned import GumbelPatches
from bytelm.patching.segmenter import RulePatches
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig

CONTEXT = 2048
"""Bytes."""
BYTES_PER_TOKEN = 4.0
VOCABULARY = 16384


def contender(model: ModelConfig, tokenizer: TokenizerConfig | None = None) -> Contender:
    """All rows hold the same bytes on average."""
    length = CONTEXT if tokenizer is None else round(CONTEXT / BYTES_PER_TOKEN)
    config = ExperimentConfig(
        model=model,
        data=DataConfig(sequence_length=length, batch_size=32),
        optimizer=small_muon(),
    )
    return Contender(config, tokenizer)


def subword(kind: str) -> Contender:
    """The flat Transformer of tokens."""
    model = TransformerConfig(width=1024, depth=10, head_width=64, vocabulary=VOCABULARY)
    return contender(model, TokenizerConfig(kind, VOCABULARY))


def pooled(segmenter: object, bytes_per_slot: float) -> Contender:
    """The hourglass."""
    return contender(
        DynamicPoolingConfig(
            width=640,
            head_width=64,
            pre_depth=2,
            backbone_depth=10,
            post_depth=2,
            segmenter=segmenter,
            bytes_per_slot=bytes_per_slot,
        )
    )


comparison = Comparison(
    title="Bytes and subwords at 1e17 FLOPs of training",
    contenders={
        "bytes": contender(TransformerConfig(width=512, depth=10, head_width=64)),
        "bytes_window": contender(
            TransformerConfig(width=512, depth=10, head_width=64, window=512)
        ),
        "megabyte": contender(
            MegaByteConfig(
                local_width=384, local_depth=8, global_width=1152, global_depth=8, head_width=64,
                patch_size=4, bytes_per_slot=4.0,
            )
        ),
        "spacebyte": contender(
            SpaceByteConfig(
                local_width=384, local_depth=8, global_width=1024, global_depth=9, head_width=64,
                window=512, bytes_per_slot=4.0,
            )
        ),
        "hat": contender(
            HATConfig(
                local_width=384, encoder_depth=2, decoder_depth=4, global_width=1024,
                global_depth=9, head_width=64, bytes_per_slot=3.5,
            )
        ),
        "pooling_whitespace": pooled(RulePatches("whitespace"), 4.0),
        "pooling_learned": pooled(GumbelPatches(rate=0.2), 3.5),
        "bpe": subword("bpe"),
        "unigram": subword("unigram"),
    },
    baseline="bpe",
    budgets=(2e16, 1e17),
    corpora={
        "english": DataConfig(
            source=Files(
                files=(
                    "core/eng_books.train.jsonl.xz",
                    "core/docs.train.jsonl.xz",
                    "extended/eng_books.train.jsonl.xz",
                    "extended/docs.train.jsonl.xz",
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

"""Contenders and text of tiny comparisons."""

import dataclasses
from pathlib import Path

from bytelm.data.config import DataConfig, Files
from bytelm.experiments.compare import ComparisonPlan
from bytelm.experiments.comparison import Comparison, Contender, TokenizerConfig, in_folder
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.optimizer import AdamW

FLAT = TransformerConfig(width=16, depth=1, head_width=8)


def experiment(model, sequence_length=32) -> ExperimentConfig:
    return ExperimentConfig(
        model=model,
        data=DataConfig(sequence_length=sequence_length, batch_size=4),
        optimizer=AdamW(learning_rate=1e-2, warmup=1),
        mesh=MeshConfig(data=1),
    )


CONTENDERS = {
    "bytes": Contender(experiment(FLAT)),
    "bpe": Contender(
        experiment(dataclasses.replace(FLAT, vocabulary=264), 16), TokenizerConfig("bpe", 264)
    ),
    "spacebyte": Contender(
        experiment(
            SpaceByteConfig(
                local_width=16,
                local_depth=2,
                global_width=16,
                global_depth=1,
                head_width=8,
                bytes_per_slot=2.0,
            )
        )
    ),
}


TWO = {name: CONTENDERS[name] for name in ("bpe", "spacebyte")}


def corpus(language: str, folder: Path) -> DataConfig:
    return DataConfig(
        source=Files(
            files=(f"{language}.train.txt",),
            validation_files=(f"{language}.valid.txt",),
            test_files=(f"{language}*test.txt",),
        ),
        cache_dir=str(folder / "cache"),
    )


def plan_of(comparison: Comparison, output: Path, root: Path) -> ComparisonPlan:
    """The plan as `run_comparison` makes it."""
    return ComparisonPlan(in_folder(comparison, root), output)

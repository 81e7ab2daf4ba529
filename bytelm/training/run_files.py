"""What a run directory holds besides checkpoints and metrics: config, facts, copies of inputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.core.atomic_write import write_whole
from bytelm.data.carried import carry
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import run_text
from bytelm.data.text_record import TextRecord, load_record, make_record
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.tokenizers.unigram import Unigram
from bytelm.training.experiment import ExperimentConfig, to_json
from bytelm.training.header import write_facts

CONFIG = "config.json"
"""File of a run directory that holds the resolved config."""


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        run_dir: where they are.
        config: of the run.
        facts: as `run_facts` gives them.
        text: what the parameters are trained on.
        tokenizer, unigram: that the text is read with.
    """

    run_dir: Path
    config: ExperimentConfig
    facts: dict[str, Any]
    text: TextRecord
    tokenizer: Tokenizer | None
    unigram: Unigram | None

    def write(self) -> None:
        """Writes them; the config, by which a directory is known to hold a run, last."""
        self.text.save(self.run_dir)
        carry(self.run_dir, self.tokenizer, self.unigram)
        write_facts(self.facts, self.run_dir)
        write_whole(self.run_dir / CONFIG, to_json(self.config))

    def restore_if_removed(self) -> None:
        """Writes them again if somebody has removed the directory."""
        if not (self.run_dir / CONFIG).exists():
            self.write()


def text_trained_on(
    run_dir: Path, config: ExperimentConfig, data: OpenData, *, resuming: bool
) -> TextRecord:
    """The record of the text that a run's parameters are trained on when it ends.

    It holds what the run read before, where it is resumed with other text, and what the run read
    whose parameters it starts from.

    Raises:
        UserError: for a bad source.
    """
    record = run_text(data)
    earlier = run_dir if resuming else config.train.initial
    if earlier is not None:
        unknown = make_record([], complete=False, sources=[])
        record = (load_record(Path(earlier)) or unknown).followed_by(record)
    return record

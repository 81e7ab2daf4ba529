"""What a run's parameters were trained on, kept in its directory."""

from pathlib import Path

from bytelm.data.corpus.run_text import run_text
from bytelm.data.corpus.text_record import TextRecord, load_record, make_record
from bytelm.training.experiment import ExperimentConfig


def keep_record(run_dir: Path, config: ExperimentConfig, *, resuming: bool) -> TextRecord:
    """Writes the record of a run's text before it trains, and returns it.

    It holds what the run read before, where it is resumed with other text, and what the run read
    whose parameters it starts from.

    Raises:
        UserError: for a bad source.
    """
    record = run_text(config.data)
    earlier = run_dir if resuming else config.train.initial
    if earlier is not None:
        nothing_known = make_record([], complete=False, sources=[])
        record = (load_record(Path(earlier)) or nothing_known).followed_by(record)
    record.save(run_dir)
    return record

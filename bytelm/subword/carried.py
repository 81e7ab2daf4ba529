"""The copy of its tokenizer that a run directory carries, so that its checkpoints need no other."""

from pathlib import Path

from bytelm.data.config import DataConfig
from bytelm.errors import UserError
from bytelm.subword.tokenizer import Tokenizer, load_tokenizer
from bytelm.whole_file import write_whole


def carry_tokenizer(run: Path, tokenizer: Tokenizer) -> None:
    """Writes a copy of a run's tokenizer into its directory.

    Raises:
        UserError: if the run has another one already.
    """
    path = _path(run, tokenizer.path)
    if not path.exists():
        write_whole(path, tokenizer.content)
    elif load_tokenizer(path).digest != tokenizer.digest:
        raise UserError(
            f"{tokenizer.path} is not the tokenizer that the run was started with, of which {path} "
            "is a copy; name that with --data.tokenizer, or start a new run."
        )


def carried_tokenizer(run: Path, data: DataConfig) -> Tokenizer | None:
    """The tokenizer of a run of that data; None where symbols are bytes.

    Raises:
        UserError: if the copy is gone.
    """
    return None if data.tokenizer is None else load_tokenizer(_path(run, data.tokenizer))


def _path(run: Path, original: str) -> Path:
    return run / f"tokenizer{Path(original).suffix}"

"""A run directory holds copies of its tokenizer and Unigram model, and resumes with them."""

import dataclasses
import json
from pathlib import Path

from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.core.places import place
from bytelm.data.config import DataConfig
from bytelm.data.corpus.entries import digest_of
from bytelm.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bytelm.tokenizers.unigram import Unigram

DIGESTS = "carried.json"
"""File of a run directory with the digest of each copy, by its name."""
FIELDS = ("tokenizer", "unigram")
"""Fields of a task that name such files; the copies are named after them."""


def carry(run: Path, tokenizer: Tokenizer | None, unigram: Unigram | None) -> None:
    """Copies the models that a run reads into its directory, unless they are there already."""
    digests = _digests(run)
    for field, model in zip(FIELDS, (tokenizer, unigram), strict=True):
        if model is not None and _copy(run, field) is None:
            path = run / f"{field}{Path(model.path).suffix}"
            digests[path.name] = digest_of(model.content).hex()
            write_whole(run / DIGESTS, json.dumps(digests, indent=2) + "\n")
            write_whole(path, model.content)


def with_copies(data: DataConfig, run: Path, saved: DataConfig | None) -> DataConfig:
    """The config of a resumed run, which reads its own copies instead of the originals.

    Args:
        data: the config that the run resumes with.
        run: the run directory.
        saved: the config that it was started with; None if unknown.

    Raises:
        UserError: for a damaged copy, and for a field that now names a file with other content.
    """
    changes: dict[str, str] = {}
    for field in FIELDS:
        named, copy = getattr(data.task, field), _copy(run, field)
        if named is None or copy is None:
            continue
        if saved is None or named != getattr(saved.task, field):
            _check_same(field, named, copy)
        changes[field] = str(copy)
    if not changes:
        return data
    return dataclasses.replace(data, task=dataclasses.replace(data.task, **changes))


def _check_same(field: str, named: str, copy: Path) -> None:
    try:
        content = place(named).expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"data.{field}: cannot read {named} ({error.strerror}); name the run's copy, {copy}."
        ) from error
    if content != copy.read_bytes():
        raise UserError(
            f"{named} is not the {field} that the run was started with; name the run's copy {copy} "
            f"with --data.{field}, or start a new run."
        )


def carried_tokenizer(run: Path, data: DataConfig) -> Tokenizer | None:
    """A run's tokenizer, None if its symbols are bytes; UserError for a missing or damaged copy."""
    if data.task.tokenizer is None:
        return None
    missing = run / f"tokenizer{Path(data.task.tokenizer).suffix}"
    return load_tokenizer(_copy(run, "tokenizer") or missing)


def _copy(run: Path, field: str) -> Path | None:
    """The path of a run's copy; UserError if it is damaged."""
    digests = _digests(run)
    found = [
        path for path in sorted(run.glob(f"{field}*")) if path.suffix != ".tmp" and path.is_file()
    ]
    listed = [path for path in found if path.name in digests]
    for path in listed:
        if digest_of(path.read_bytes()).hex() != digests[path.name]:
            raise UserError(
                f"{path} is damaged: it is not the {field} that the run was started with; restore "
                "that file there."
            )
    return next(iter(listed or found), None)


def _digests(run: Path) -> dict[str, str]:
    """Digests of the copies; none if the file is damaged, or an older version made the copies."""
    try:
        found = json.loads((run / DIGESTS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""Which stored split of a dataset is read for each split."""

import itertools
import re
from collections.abc import Iterable, Mapping

from bytelm.core.errors import UserError
from bytelm.data.text_record import SPLITS, Split

USUAL: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid"),
    "test": ("test",),
}
"""Names of stored splits that need not be named."""
_PART = re.compile(r"\s*([^\[\]]+?)\s*(?:\[(-?\d+)?(%?):(-?\d+)?(%?)\]\s*)?")


class StoredSplits(dict[Split, str]):
    """The name of the stored split for each split that has one; UserError for others."""

    def __init__(self, source: str, available: Iterable[str], chosen: Mapping[Split, str]) -> None:
        super().__init__(chosen)
        self._source, self._available = source, list(available)

    def __missing__(self, split: Split) -> str:
        own = f", or evaluate on what it has, with --split {' or '.join(self)}" if self else ""
        raise UserError(
            f"{self._source} has no split `{split}`; choose one of {', '.join(self._available)} "
            f"with --data.{split}-split{own}."
        )


def usual_splits(
    source: str, available: Iterable[str], named: Mapping[Split, str | None]
) -> StoredSplits:
    """The stored split for each split: the one that is named, or the one of the usual name.

    A split that is named for one purpose is not taken for another. The only one of a dataset is for
    training, unless its name says otherwise.

    Raises:
        UserError: if two of them share documents.
    """
    available = list(available)
    chosen: dict[Split, str] = {split: name for split in SPLITS if (name := named[split])}
    taken = {base for name in chosen.values() for base, *_ in _parts(name)}
    for split in SPLITS:
        free = [x for x in available if split == "train" or x not in taken]
        usual = [name for name in USUAL[split] if name in free]
        if split not in chosen and usual:
            chosen[split] = usual[0]
    usual_names = set(itertools.chain(*USUAL.values()))
    if "train" not in chosen and len(available) == 1 and not {*available} & (usual_names | taken):
        chosen["train"] = available[0]
    in_order = [(split, chosen[split]) for split in SPLITS if split in chosen]
    for (one, name), (other, its) in itertools.combinations(in_order, 2):
        if any(_meet(a, b) for a in _parts(name) for b in _parts(its)):
            raise UserError(
                f"the {one} split {name!r} of {source} shares documents with the {other} split "
                f"{its!r}; name parts that do not, such as 'train[:90%]' and 'train[90%:]', with "
                f"--data.{one}-split and --data.{other}-split."
            )
    return StoredSplits(source, available, dict(in_order))


_Part = tuple[str, float, float, str]
"""The name of a stored split, the begin and the end of a range in it, and its unit: "%" or rows."""


def _parts(name: str) -> list[_Part]:
    """The parts that a name such as `train[:90%]+test` joins; one it does not know is whole."""
    found = []
    for text in name.split("+"):
        part = _PART.fullmatch(text)
        base, begin, unit, end, unit_of_end = part.groups() if part else (text, None, "", None, "")
        is_share = "%" in (unit, unit_of_end)
        first, last = float(begin or 0), float(end or (100 if is_share else "inf"))
        if is_share:
            first, last = (x + 100 if x < 0 else x for x in (first, last))
        found.append((base, first, last, "%" if is_share else ""))
    return found


def _meet(one: _Part, other: _Part) -> bool:
    """Whether two parts surely share documents."""
    (base, begin, end, unit), (its, its_begin, its_end, its_unit) = one, other
    whole = {(0.0, 100.0), (0.0, float("inf"))}
    if base != its or begin == end or its_begin == its_end:
        return False
    if {(begin, end), (its_begin, its_end)} & whole:
        return True
    counted = min(begin, end, its_begin, its_end) >= 0
    return unit == its_unit and counted and begin < its_end and its_begin < end

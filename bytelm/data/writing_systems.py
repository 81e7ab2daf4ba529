"""Scripts (or languages) of documents, by number."""

from collections.abc import Sequence

import numpy as np

from bytelm.core.errors import UserError


def script_ids(found: Sequence[str] | None, known: Sequence[str], source: str) -> np.ndarray:
    """The numbers of the scripts that a source has.

    Args:
        found: names of the source's scripts; None where it tells none.
        known: the names in `data.scripts`, which gives them their numbers.
        source: the source's name.

    Returns:
        int32 `[len(found)]`.

    Raises:
        UserError: for a source that tells no scripts, and for a script that is not known.
    """
    if not found:
        raise UserError(
            f"data.scripts is given, and the documents of {source} have no script; name the script "
            "of them all with data.script, or the key of each JSON line's with data.script_key."
        )
    unknown = [name for name in found if name not in known]
    if unknown:
        raise UserError(
            f"{source} has documents of the script {', '.join(unknown)}, which is not in "
            f"data.scripts ({', '.join(known)}); add it there."
        )
    return np.array([known.index(name) for name in found], np.int32)

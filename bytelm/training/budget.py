"""How long a run is, where that is said in text or work and not in steps."""

import re
from typing import Literal, NamedTuple

from bytelm.core.errors import UserError

Unit = Literal["bytes", "epochs", "flops"]
_FORM = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(byte|epoch|flop)s?\s*", re.IGNORECASE)


class Budget(NamedTuple):
    """So many bytes of text, passes over the text, or FLOPs of training."""

    amount: float
    unit: Unit


def parse_budget(text: str) -> Budget:
    """Reads a budget such as "10e9 bytes", "2 epochs" or "1e18 flops".

    Raises:
        UserError: for anything else.
    """
    form = _FORM.fullmatch(text)
    try:
        amount = float(form[1]) if form else 0.0
    except ValueError:
        amount = 0.0
    if form is None or not 0 < amount < float("inf"):
        raise UserError(
            f"train.budget is {text!r}; give a number and what it is of, such as '10e9 bytes', "
            "'2 epochs' or '1e18 flops'."
        )
    units: dict[str, Unit] = {"byte": "bytes", "epoch": "epochs", "flop": "flops"}
    return Budget(amount, units[form[2].lower()])

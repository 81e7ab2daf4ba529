"""A measured number: the result of a training step, an evaluation, an ablation or a comparison."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self


def with_prefix(value: float, unit: str) -> str:
    """Three significant digits with an SI prefix, such as "1.94 MB/s"."""
    if not math.isfinite(value):
        return f"{value} {unit}"
    value = float(f"{value:.2e}")  # rounded first, so that 999.9 becomes 1.00 k
    power = min(int(math.log10(max(value, 1))) // 3, 6)
    digits = f"{value / 1000**power:#.3g}".rstrip(".")
    return f"{digits} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}"


def in_powers(value: float, digits: int = 3) -> str:
    """A few significant digits, in powers of ten if the number is large, such as "2.5e17"."""
    return re.sub(r"e\+0*", "e", f"{value:.{digits}g}")


def exponent(value: float) -> str:
    """Two significant digits and an exponent, such as "1.0e-3"."""
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(power)}" if power else mantissa


@dataclass(frozen=True)
class Unit:
    """How the numbers of a unit are written."""

    form: str | Callable[[float], str] = ".4g"  # a format, or what writes the number
    text: str | None = None  # with the unit, as in "{} bpb"; None for the figure's name
    brief: str | None = None  # a shorter format; None for `form`

    def number(self, value: float, *, brief: bool = False) -> str:
        """The number without its unit."""
        form = self.brief if brief and self.brief else self.form
        return format(value, form) if isinstance(form, str) else form(value)


UNITS: dict[str, Unit] = {
    "": Unit(),
    "bpb": Unit(".4f", "{} bpb", ".3f"),
    "bits/target byte": Unit(".4f", "{} bits/target byte", ".3f"),
    "bpb with END": Unit(".4f", "{} with END", ".3f"),
    "bits/target byte with END": Unit(".4f", "{} with END", ".3f"),
    "share": Unit(".2%"),
    "of peak": Unit(".0%", "{} of peak"),
    "count": Unit(",.0f"),
    "bytes": Unit(",.0f", "{} bytes"),
    "B/s": Unit(lambda value: with_prefix(value, "B/s"), "{}"),
    "FLOP/s": Unit(lambda value: with_prefix(value, "FLOP/s"), "{}"),
    "FLOP": Unit(in_powers, "{} FLOP"),
    "FLOP/byte": Unit(",.0f", "{} FLOP/byte"),
    "B/patch": Unit(".2f", "{} B/patch"),
    "symbols/patch": Unit(".2f", "{} symbols/patch"),
    "B/token": Unit(".2f", "{} B/token"),
    "lr": Unit(exponent, "lr {}"),
    "norm": Unit(".3g"),
    "s": Unit(".1f", "{} s"),
}
"""By name. A figure of another unit is written as "1.234 NAME"."""


def json_values(value: Any) -> Any:
    """The value with NumPy's and JAX's numbers and arrays as Python's, also in dicts and lists."""
    if isinstance(value, Mapping):
        return {json_values(key): json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


@dataclass(frozen=True)
class Figure:
    """One number and what it means.

    Attributes:
        name: such as "bpb", or "bpb/SOURCE" for a part of the text.
        value: NaN if it could not be measured.
        unit: one of `UNITS`, or any other word.
        low, high: ends of the 95% interval; None without one.
        bound: whether the true value is at most this.
    """

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    bound: bool = False

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the 95% interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def number(self) -> str:
        """The number for a table, with the sign of a bound."""
        return ("\u2264 " if self.bound else "") + self._unit.number(self.value)

    @property
    def interval_text(self) -> str:
        """The interval for a table; "" if there is none."""
        return " to ".join(map(self._unit.number, self.interval)) if self.interval else ""

    @property
    def brief(self) -> str:
        """The number with its unit, or with its name if the unit has no text."""
        number = self._unit.number(self.value, brief=True)
        text = self._unit.text or f"{self.name.replace('_', ' ')} {{}}"
        return ("\u2264 " if self.bound else "") + text.format(number)

    @property
    def _unit(self) -> Unit:
        return UNITS.get(self.unit) or Unit(text=f"{{}} {self.unit}")

    def renamed(self, name: str) -> Self:
        """The same figure under another name."""
        return dataclasses.replace(self, name=name)

    def to_json(self) -> dict[str, Any]:
        """JSON values: fields that are not set are left out, a value that is not finite is null."""
        fields = json_values(dataclasses.asdict(self))
        fields["value"] = fields["value"] if math.isfinite(self.value) else None
        defaults = {"unit": "", "low": None, "high": None, "bound": False}
        return {k: v for k, v in fields.items() if k not in defaults or v != defaults[k]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        value = fields["value"]
        return cls(**{**fields, "value": math.nan if value is None else value})

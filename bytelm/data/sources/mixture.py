"""Several sources, mixed by their weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from bytelm.core.errors import UserError
from bytelm.data.sources.source import SingleSource, SourceConfig


@dataclass(frozen=True)
class Mixture(SourceConfig):
    """Several sources, each with its weight."""

    kind: ClassVar[str] = "mixture"

    sources: tuple[SourceConfig, ...]
    """The sources."""

    def __post_init__(self) -> None:
        if not self.sources or any(isinstance(source, Mixture) for source in self.sources):
            raise UserError("data.sources of a mixture must be one or more single sources.")

    @property
    def parts(self) -> tuple[SingleSource, ...]:
        return tuple(part for source in self.sources for part in source.parts)

    def with_files(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> "Mixture":
        return Mixture(tuple(source.with_files(change) for source in self.sources))

"""A rich console that shows text literally."""

from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from bytelm.core.terminal_text import printable


class TerminalConsole(Console):
    """A rich console without markup.

    Names in brackets would otherwise be read as markup, in titles and cells of tables too. Control
    characters, and characters that the encoding lacks, are shown as escapes.
    """

    def __init__(self, file: TextIO | None = None, **options: Any) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text with escapes, before its width is measured."""
        return super().render_str(self._writable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments with escapes, except those by which rich moves the cursor."""
        for segment in super().render(renderable, options):
            if segment.control is None:
                segment = Segment(self._writable(segment.text), segment.style)
            yield segment

    def _writable(self, text: str) -> str:
        return printable(text).encode(self.encoding, "backslashreplace").decode(self.encoding)

"""The order of a stack's blocks, written as in "T1m4": one T, then four m.

The letters are those of H-Net (arXiv 2507.07955): t and T are attention without and with an MLP, m
and M are Mamba-2 without and with an MLP.
"""

import re
from dataclasses import dataclass, replace

from bytelm.core.errors import UserError
from bytelm.nn.block import BlockConfig
from bytelm.nn.mamba2 import Mamba2Config

PART = re.compile(r"([mMtT])([1-9]\d*)")


@dataclass(frozen=True)
class Layout:
    """Blocks in their order.

    Attributes:
        parts: letters, each with its number of blocks.
    """

    parts: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, text: str, where: str) -> "Layout":
        """Reads a layout; UserError, which names the option `where`, if it is none."""
        parts = tuple((letter, int(count)) for letter, count in PART.findall(text))
        if not parts or "".join(f"{letter}{count}" for letter, count in parts) != text:
            raise UserError(
                f'{where} is {text!r}, which is no layout such as "T1m4"; write letters, each with '
                "a number of blocks: m or M (Mamba-2 without or with an MLP), t or T (attention "
                "without or with an MLP)."
            )
        return cls(parts)

    @property
    def additions(self) -> int:
        """How many residual branches the blocks have."""
        return sum(count * (2 if letter.isupper() else 1) for letter, count in self.parts)

    def configs(
        self, attention: BlockConfig, mamba: Mamba2Config, additions: int | None = None
    ) -> list[BlockConfig | Mamba2Config]:
        """The stacks of a `MixedStack`.

        Args:
            attention: the blocks of T; those of t lack its MLP. The depth is the layout's.
            mamba: the blocks of M; those of m lack its MLP.
            additions: branches that the initial kernels at their ends are scaled for; None for
                those of this layout.
        """
        additions = additions or self.additions

        def config(letter: str, count: int) -> BlockConfig | Mamba2Config:
            shape = attention if letter in "tT" else mamba
            mlp = shape.mlp if letter.isupper() else None
            return replace(shape, depth=count, mlp=mlp, additions=additions)

        return [config(letter, count) for letter, count in self.parts]

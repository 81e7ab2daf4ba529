"""Decoding states whose backbone does not run, so that the open patches take all symbols."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from bytelm.patching.levels import Idle, LevelState


def without_patches(state: Any) -> Any:
    """The decoding state of a model whose open patches take all symbols that follow.

    The program that reads these symbols is without the backbone and its caches.
    """

    def part(part: LevelState) -> LevelState:
        patching = replace(part.patching, most=jnp.zeros_like(part.patching.most))
        return replace(part, patching=patching, inner=Idle())

    return _map_levels(part, state)


def with_patches(state: Any, before: Any) -> Any:
    """The state after symbols that `without_patches(before)` read, whose patches open as before."""

    def part(part: LevelState, before: LevelState) -> LevelState:
        patching = replace(part.patching, most=before.patching.most)
        return replace(part, patching=patching, inner=before.inner)

    return _map_levels(part, state, before)


def _map_levels(function: Callable[..., LevelState], *states: Any) -> Any:
    """The state with `function` of its outermost levels."""

    def is_level(part: Any) -> bool:
        return isinstance(part, LevelState)

    def part(part: Any, *others: Any) -> Any:
        return function(part, *others) if is_level(part) else part

    return jax.tree.map(part, *states, is_leaf=is_level)

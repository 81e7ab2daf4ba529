"""Training steps on the rows of large tables that a batch reads.

A batch reads few of the millions of rows of tables of n-grams (`bytelm.nn.ngrams`). A step takes
these rows out of the parameters and out of the optimiser's moments, works on them as if they were
the tables, and puts them back. So its cost does not grow with the tables, clipping sees the same
norm, and every optimiser fits whose moments have a parameter's shape. All other rows stay as they
are: no decay, and no momentum of earlier steps moves them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.models import Batch, LanguageModel
from bytelm.nn.mesh import path_name, replicate
from bytelm.nn.ngrams import NGrams
from bytelm.patching.patches import positions_in_run

Touched = dict[str, jax.Array]
"""The rows of each table that are read, by its path in the parameters: int32, ascending; at the end
there may be numbers that are no row."""


def touched_rows(model: LanguageModel, batch: Batch) -> Touched:
    """The rows that a model reads of its tables of n-grams."""
    found: Touched = {}
    for path, module in _tables(model):
        numbers = module.numbers(batch.ids, positions_in_run(batch.document_ids))
        rows, count = len(module.table[...]), min(numbers.size, len(module.table[...]))
        numbers = jnp.unique(replicate(numbers.ravel()), size=count, fill_value=rows)
        found[path] = jnp.where(numbers < rows, numbers, rows + jnp.arange(count))
    return found


def on_rows(model: LanguageModel, touched: Touched) -> LanguageModel:
    """The model, whose tables hold these rows alone."""
    for path, module in _tables(model):
        if path in touched:
            module.chosen = touched[path]
    return model


def take_rows(tree: Any, touched: Touched) -> Any:
    """Parameters, or an optimiser's state, with only these rows of the tables."""

    def taken(path: tuple[Any, ...], leaf: Any) -> Any:
        rows = _rows_of(path, leaf, touched)
        return leaf if rows is None else jnp.take(leaf, rows, axis=0, mode="fill", fill_value=0)

    return jax.tree.map_with_path(taken, tree)


def put_rows(tree: Any, new: Any, touched: Touched) -> Any:
    """The inverse: `new`, with the other rows from `tree`."""

    def put(path: tuple[Any, ...], leaf: Any, new: Any) -> Any:
        rows = _rows_of(path, leaf, touched)
        if rows is None:
            return new
        where = leaf.at[rows]
        return where.set(new, mode="drop", indices_are_sorted=True, unique_indices=True)

    return jax.tree.map_with_path(put, tree, new)


def _tables(model: LanguageModel) -> list[tuple[str, NGrams]]:
    """The tables of n-grams that are trained, by their paths in the parameters."""
    return [
        ("/".join(map(str, (*path, "table"))), module)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, NGrams) and module.table.get_metadata()["role"] == "ngrams"
    ]


def _rows_of(path: tuple[Any, ...], leaf: Any, touched: Touched) -> jax.Array | None:
    """The rows that are taken of a leaf: of a table, or of an array of moments like it."""
    name = f"/{path_name(path)}"
    found = (rows for table, rows in touched.items() if name.endswith(f"/{table}"))
    return next(found, None) if getattr(leaf, "ndim", 0) == 2 else None

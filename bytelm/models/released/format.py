"""What a format of released checkpoints is: a config.json, and named tensors in layouts of its own.

A format lists its tensors, and for each where its rows are stored here. Values are only
rearranged, so converting there and back gives the same bits.
"""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import ml_dtypes
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from bytelm.core.errors import UserError
from bytelm.models.contract import ModelConfig
from bytelm.models.draft import NoDraft
from bytelm.models.parameters import abstract_model

C = TypeVar("C", bound=ModelConfig)
Path = tuple[str, ...]
"""Of a parameter."""
Shape = tuple[int, ...]

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""Of tensors in files."""


class Form(NamedTuple):
    """A change of layout: `ours` converts from the format's layout to ours, `theirs` back."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


SAME = Form(lambda x: x, lambda x: x)
TRANSPOSED = Form(np.transpose, np.transpose)


class Part(NamedTuple):
    """Rows of a tensor, which are one of our parameters, or one block of a stacked one."""

    path: Path
    rows: int
    form: Form = SAME


class Tensor(NamedTuple):
    """Where a tensor is stored here.

    Several tensors may be stored in the same place, if they are one tensor with several names;
    files need only one of them.

    Attributes:
        shape: in the format.
        parts: of its rows, in order; none if it is not used.
        block: its index in stacked parameters; None in those that are not stacked.
        wide: whether it is float32 also in files of another dtype.
        written: whether we write it; files that we read may lack the others.
    """

    shape: Shape
    parts: tuple[Part, ...]
    block: int | None = None
    wide: bool = False
    written: bool = True

    @property
    def places(self) -> set[tuple[Path, int | None]]:
        return {(part.path, self.block) for part in self.parts}


def whole(path: Path, shape: Shape, form: Form = SAME) -> Tensor:
    """A tensor that is one of our parameters."""
    return Tensor(shape, (Part(path, shape[0], form),))


class ReleasedFormat(abc.ABC, Generic[C]):
    """A format of released checkpoints, from which models are read.

    Attributes:
        name: for messages.
        model: whose models it stores.
        has_tokenizer: whether the models read the tokens of a tokenizer.json; then `with_tokens`.
        absent: what the absence of a tensor means, if there is more to say.
    """

    name: ClassVar[str]
    model: ClassVar[type[ModelConfig]]
    has_tokenizer: ClassVar[bool] = False
    absent: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def recognises(self, saved: Mapping[str, Any]) -> bool:
        """Whether a config.json is of this format."""

    @abc.abstractmethod
    def read_config(self, saved: Mapping[str, Any], names: Iterable[str]) -> C:
        """The config of a checkpoint, from its config.json and the names of its tensors.

        Raises UserError, which names the differences, for another architecture.
        """

    @abc.abstractmethod
    def tensors(self, config: C) -> dict[str, Tensor]:
        """All tensors of a model, by name, those of a stack in the order of its blocks."""

    def known_config(self, name: str) -> dict[str, Any] | None:
        """The config.json of a published checkpoint that comes without one, by its file's name."""
        return None

    def with_tokens(self, config: C, tokens: Sequence[bytes]) -> C:
        """The config of a model whose tokens have these bytes; UserError if they do not fit it."""
        return config

    def row_length(self, saved: Mapping[str, Any]) -> int | None:
        """The longest rows that the model was trained on, if its config.json says so."""
        return None

    def note(self, config: C) -> str:
        """What to know of a model that was converted from the format or to it, in a sentence."""
        return ""

    def read(self, weights: Mapping[str, Any], config: C) -> dict[str, Any]:
        """Our parameters, a nested dict of float32 arrays, from tensors of any dtype.

        Args:
            weights: arrays, or what `np.asarray` makes one of, such as tensors that stay in their
                file until then. It is called for one after another.
            config: of the model.

        Raises:
            UserError: names the tensors that are missing, unexpected, or of another shape.
        """
        tensors = self.tensors(config)
        self._check(weights, tensors)
        model = flatten_dict(nnx.to_pure_dict(abstract_model(config)[1]))
        found = {path: np.empty(leaf.shape, np.float32) for path, leaf in model.items()}
        filled: dict[tuple[Path, int | None], str] = {}
        for name, tensor in tensors.items():
            if name not in weights or not tensor.parts:
                continue
            value, first = np.asarray(weights[name], np.float32), 0
            for part in tensor.parts:
                ours = part.form.ours(value[first : first + part.rows])
                first += part.rows
                array, block = found[part.path], tensor.block
                place = array if block is None else array[block, ...]
                other = filled.setdefault((part.path, block), name)
                if other == name:
                    place[...] = ours
                elif not np.array_equal(place, ours, equal_nan=True):
                    raise UserError(f"{name} differs from {other}, which is the same tensor.")
        return unflatten_dict(found)

    def _check(self, weights: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        there = {place for name in weights if name in tensors for place in tensors[name].places}
        missing = [
            name
            for name, tensor in tensors.items()
            if tensor.written and name not in weights and not tensor.places <= there
        ]
        unexpected = [name for name in weights if name not in tensors]
        differing = [
            f"{name} has the shape {list(weights[name].shape)} and not {list(tensor.shape)}"
            for name, tensor in tensors.items()
            if name in weights and tensor.parts and tuple(weights[name].shape) != tensor.shape
        ]
        problems = [
            f"{what}{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for what, names in (
                ("missing ", missing),
                ("unexpected ", unexpected),
                ("", differing),
            )
            if names
        ]
        problems += [said for name, said in self.absent.items() if name in missing]
        if problems:
            raise UserError(f"the tensors do not fit its config.json: {'; '.join(problems)}.")


class WrittenFormat(ReleasedFormat[C]):
    """A format in which models of ours are written too."""

    @abc.abstractmethod
    def files(self, config: C, row_length: int) -> dict[str, dict[str, Any]]:
        """The JSON files of a model that was trained with rows of so many symbols, by name.

        Raises UserError if the format cannot store the model.
        """

    def lost(self, config: C) -> str:
        """What programs that read the format do not compute of a model; empty for nothing."""
        has_heads = not isinstance(getattr(config, "draft", NoDraft()), NoDraft)
        return "its draft heads are left out" if has_heads else ""

    def write(
        self, params: Mapping[str, Any], config: C, dtype: str = "float32"
    ) -> dict[str, np.ndarray]:
        """The format's tensors, in C order, from our parameters.

        Raises UserError if the format cannot store the model.
        """
        ours = flatten_dict(params)
        weights = {}
        for name, tensor in self.tensors(config).items():
            if not tensor.written:
                continue
            parts = []
            for part in tensor.parts:
                value = np.asarray(ours[part.path])
                parts.append(
                    part.form.theirs(value if tensor.block is None else value[tensor.block])
                )
            value = parts[0] if len(parts) == 1 else np.concatenate(parts)
            wanted = DTYPES["float32" if tensor.wide else dtype]
            weights[name] = np.ascontiguousarray(value, wanted)
        return weights

"""PyTorch's files of tensors, read without PyTorch and without running code that is in them.

A file is a zip archive with the bytes of each storage and a pickle, which makes tensors from them.
A pickle may name any function of any package and call it. This one may only name what rebuilds
tensors and plain containers, which are defined here, and OmegaConf's lists and dicts, which become
objects that do nothing; at any other name the reader stops. The classes here refuse or ignore the
state that a pickle gives them, so that it cannot change them either.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bytelm.core.errors import UserError, first_line
from bytelm.training.checkpoints.tensor_files import StoredTensor

DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "BoolStorage": np.dtype(np.bool_),
}
"""By PyTorch's name for a storage of them."""


class _Storage(NamedTuple):
    """Elements in the file, of which tensors are views."""

    key: str
    dtype: np.dtype
    size: int


class _View(NamedTuple):
    """A tensor: what PyTorch calls to rebuild one has these arguments."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any
    requires_grad: Any = False
    hooks: Any = None
    metadata: Any = None

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a tensor has no state")


class _Parameter:
    """A parameter is its tensor; its hooks and attributes are dropped."""

    def __new__(cls, tensor: Any, *_: Any) -> Any:
        return tensor

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a parameter has no state")


class _Subclass:
    """A tensor with attributes is the tensor; the attributes are dropped."""

    def __new__(cls, rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
        if rebuild is not _View and rebuild is not _Parameter:
            raise pickle.UnpicklingError("a tensor is rebuilt by something else")
        return rebuild(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a tensor has no state")


class _Dict(dict):
    """An ordered dict without its attributes."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Inert:
    """An object that is not needed, such as a list of OmegaConf's: all done to it has no effect."""

    def __new__(cls, *_: Any) -> "_Inert":
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    append = extend = __setstate__


_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor_v2": _View,
    "torch._utils._rebuild_parameter": _Parameter,
    "torch._utils._rebuild_parameter_with_state": _Parameter,
    "torch._tensor._rebuild_from_type_v2": _Subclass,
    "torch.Tensor": "Tensor",
    "torch.nn.parameter.Parameter": "Parameter",
    "collections.defaultdict": _Inert,
    "typing.Any": _Inert,
    **{f"torch.{name}": name for name in DTYPES},
    **{
        f"{module}.{name}": _Inert
        for module in ("builtins", "__builtin__")  # of Python 3 and 2, whose names pickles have
        for name in ("bool", "bytes", "dict", "float", "int", "list", "long", "str", "tuple")
    },
}
"""All that a pickle may name, except for OmegaConf's classes, which are inert."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "omegaconf":
            return _Inert
        try:
            return _NAMES[f"{module}.{name}"]
        except KeyError:
            raise _ForeignName(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        what, kind, key, _, size = pid
        if what != "storage" or type(key) is not str or type(size) is not int:
            raise pickle.UnpicklingError("a storage is described in an unknown way")
        return _Storage(key, DTYPES[kind], size)


class _ForeignName(Exception):
    """A pickle names what no file of tensors needs."""


class _Archive:
    """The storages in a file; the last one that was read is kept, since tensors may share it."""

    def __init__(self, path: Path):
        self.path = path
        self._last: tuple[_Storage, np.ndarray] | None = None
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
            if len(pickles) != 1:
                raise zipfile.BadZipFile("it has no data.pkl, which PyTorch's files have")
            self._folder = pickles[0].removesuffix("data.pkl")
            self.pickle = archive.read(pickles[0])
            order = f"{self._folder}byteorder"
            if order in names and archive.read(order) != b"little":
                raise zipfile.BadZipFile("its numbers are big-endian")
            self.sizes = {info.filename: info.file_size for info in archive.infolist()}

    def name(self, storage: _Storage) -> str:
        """The member of the archive with the storage's bytes."""
        return f"{self._folder}data/{storage.key}"

    def elements(self, storage: _Storage) -> np.ndarray:
        """All elements of a storage, `[size]`."""
        if self._last is None or self._last[0] != storage:
            self._last = None  # before the next one is read
            try:
                with zipfile.ZipFile(self.path) as archive:
                    found = archive.read(self.name(storage))
            except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
                raise _unreadable(self.path, error) from error
            self._last = storage, np.frombuffer(found, storage.dtype)
        return self._last[1]

    def read(self, view: _View) -> np.ndarray:
        """A tensor."""
        elements, size = self.elements(view.storage), view.storage.dtype.itemsize
        strides = [stride * size for stride in view.strides]
        found = np.lib.stride_tricks.as_strided(elements[view.offset :], view.shape, strides)
        return np.asarray(found, order="C")


def open_torch(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file that PyTorch saved as a dict, by name; each is read when asked for.

    Raises:
        UserError: if it cannot be read, is of a format from before PyTorch 1.6, or has anything but
            tensors in it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] != b"PK":
            raise UserError(
                f"{path} is not in the format that PyTorch has had since version 1.6, a zip "
                "archive; load and save it with a newer PyTorch, or convert it to safetensors."
            )
        archive = _Archive(path)
    except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        found = _Unpickler(io.BytesIO(archive.pickle)).load()
    except _ForeignName as error:
        raise UserError(
            f"{path} asks for {error}, which no file of tensors needs, so it was not read; save "
            "the model's state_dict() alone, or convert it to safetensors."
        ) from None
    except Exception as error:  # whatever a damaged pickle does
        raise _unreadable(path, error) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no dict of tensors; save the model's state_dict().")
    tensors = {}
    for name, value in found.items():
        if isinstance(value, _Inert):
            continue
        if type(name) is not str or not isinstance(value, _View):
            raise UserError(
                f"{path} has an entry {str(name)[:80]!r} that is no tensor; save the model's "
                "state_dict() alone."
            )
        if not _is_inside(value, archive):
            raise UserError(f"{path} is damaged: {name} is not inside its storage.")
        tensors[name] = StoredTensor(value.shape, _reader(archive, value))
    return tensors


def _reader(archive: _Archive, view: _View) -> Callable[[], np.ndarray]:
    return lambda: archive.read(view)


def _is_inside(view: _View, archive: _Archive) -> bool:
    """Whether a view's elements are in its storage, and the storage is in the file."""
    storage, shape, strides = view.storage, view.shape, view.strides
    if not isinstance(storage, _Storage) or type(shape) is not tuple or type(strides) is not tuple:
        return False
    numbers = (storage.size, view.offset, *shape, *strides)
    if any(type(number) is not int or number < 0 for number in numbers):
        return False
    if archive.sizes.get(archive.name(storage)) != storage.size * storage.dtype.itemsize:
        return False
    last = view.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=False))
    is_empty = math.prod(shape) == 0
    return len(shape) == len(strides) and (is_empty or last < storage.size)


def _unreadable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path} cannot be read: {first_line(error)}.")

"""Files as PyTorch writes them, made without it: pickles are put together from their opcodes."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

KINDS = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int64): "LongStorage",
}


def value(plain: Any) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(plain, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    """Opcodes that push what has this name."""
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def dict_of(items: dict[str, bytes], start: bytes = b"}") -> bytes:
    return start + b"(" + b"".join(value(key) + item for key, item in items.items()) + b"u"


def built(thing: bytes, state: bytes) -> bytes:
    """Opcodes that give a thing its state."""
    return thing + state + b"b"


ORDERED = call(name("collections", "OrderedDict"))


def storage(key: str, kind: str, size: int) -> bytes:
    parts = (value("storage"), name("torch", kind), value(key), value("cpu"), value(size))
    return tuple_of(*parts) + b"Q"


def view(key: str, base: np.ndarray, offset: int, shape: tuple, strides: tuple) -> bytes:
    """A tensor over the elements of `base`, which is the storage `key`."""
    stored = storage(key, KINDS[base.dtype], base.size)
    arguments = (value(offset), value(shape), value(strides), value(False), ORDERED)
    return call(name("torch._utils", "_rebuild_tensor_v2"), stored, *arguments)


def tensor(key: str, array: np.ndarray) -> bytes:
    """A contiguous tensor with a storage of its own."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return view(key, array, 0, array.shape, strides)


def write(
    path: Path, content: bytes, storages: dict[str, np.ndarray], byteorder: str = "little"
) -> Path:
    """A file with this pickle and these storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("model/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"model/data/{key}", array.tobytes())
        archive.writestr("model/version", "3\n")
    return path


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A state dict."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    keys = {name: str(number) for number, name in enumerate(arrays)}
    content = dict_of({n: tensor(keys[n], array) for n, array in arrays.items()}, ORDERED)
    metadata = dict_of({"_metadata": dict_of({"": value({"version": 1})}, ORDERED)})
    storages = {keys[name]: array for name, array in arrays.items()}
    return write(path, built(content, metadata), storages)

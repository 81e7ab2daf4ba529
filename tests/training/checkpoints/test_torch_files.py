"""PyTorch's files: tensors of every form are read, and code in a file is never run."""

import zipfile

import ml_dtypes
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.training.checkpoints.torch_files import open_torch
from tests.training.checkpoints import torch_writer as w

BASE = np.arange(24, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def read(path):
    return {name: np.asarray(tensor) for name, tensor in open_torch(path).items()}


def refused(path):
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("dtype", w.KINDS, ids=str)
def test_tensors_of_each_dtype(dtype, path):
    wanted = {"a": BASE.reshape(4, 6).astype(dtype), "b.c": BASE[:3].astype(dtype)}
    found = read(w.write_tensors(path, wanted))
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], array)


def test_a_tensor_says_its_shape_before_it_is_read(path):
    tensors = open_torch(w.write_tensors(path, {"a": BASE.reshape(4, 6)}))
    path.unlink()
    assert tensors["a"].shape == (4, 6)
    with pytest.raises(UserError, match="cannot be read"):
        np.asarray(tensors["a"])


def test_views_of_one_storage(path):
    square = BASE.reshape(4, 6)
    wanted = {
        "transposed": (square.T, 0, (6, 4), (1, 6)),
        "strided": (square[1:, ::2], 6, (3, 3), (6, 2)),
        "expanded": (np.broadcast_to(square[0], (5, 6)), 0, (5, 6), (0, 1)),
        "scalar": (square[3, 5], 23, (), ()),
        "empty": (np.zeros((0, 4)), 24, (0, 4), (4, 1)),
    }
    views = {name: w.view("0", BASE, *where) for name, (_, *where) in wanted.items()}
    found = read(w.write(path, w.dict_of(views), {"0": BASE}))
    for name, (array, *_) in wanted.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_a_shared_storage_is_read_once(path, monkeypatch):
    views = {str(i): w.view("0", BASE, i, (2,), (1,)) for i in range(5)}
    tensors = open_torch(w.write(path, w.dict_of(views), {"0": BASE}))
    opened = []
    monkeypatch.setattr(
        zipfile.ZipFile, "read", lambda self, name: opened.append(name) or BASE.tobytes()
    )
    assert [np.asarray(tensor)[0] for tensor in tensors.values()] == [0, 1, 2, 3, 4]
    assert len(opened) == 1


def omegaconf_list():
    """As OmegaConf's ListConfig is pickled: an object with nodes, metadata and types in it."""

    def made(module, cls, state):
        return w.built(w.name(module, cls) + b")\x81", w.dict_of(state))

    metadata = {
        "ref_type": w.name("typing", "Any"),
        "object_type": w.name("__builtin__", "list"),
        "resolver_cache": w.call(w.name("collections", "defaultdict"), w.name("builtins", "dict")),
        "key_type": w.name("__builtin__", "long"),
    }
    node = made("omegaconf.nodes", "AnyNode", {"_val": w.value(0.9)})
    state = {
        "_metadata": made("omegaconf.base", "ContainerMetadata", metadata),
        "_content": b"](" + node + node + b"e",
    }
    return made("omegaconf.listconfig", "ListConfig", state)


def test_parameters_and_their_attributes(path):
    plain = w.tensor("0", BASE)
    attributes = w.dict_of({"betas": omegaconf_list()})
    content = {
        "parameter": w.call(
            w.name("torch._utils", "_rebuild_parameter"), plain, w.value(True), w.ORDERED
        ),
        "with_state": w.call(
            w.name("torch._utils", "_rebuild_parameter_with_state"),
            *(plain, w.value(True), w.ORDERED, attributes),
        ),
        "tagged": w.call(
            w.name("torch._tensor", "_rebuild_from_type_v2"),
            w.name("torch._utils", "_rebuild_tensor_v2"),
            w.name("torch", "Tensor"),
            w.tuple_of(w.storage("0", "FloatStorage", 24), *map(w.value, (0, (24,), (1,)))),
            attributes,
        ),
        "options": omegaconf_list(),
    }
    found = read(w.write(path, w.dict_of(content), {"0": BASE}))
    assert list(found) == ["parameter", "with_state", "tagged"]
    for array in found.values():
        np.testing.assert_array_equal(array, BASE)


CODE = (
    "os system",
    "posix system",
    "builtins eval",
    "builtins exec",
    "__builtin__ getattr",
    "torch load",
    "torch._utils _rebuild_tensor_v2.__init__",
    "operator attrgetter",
)
NAMED = (
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch._tensor _rebuild_from_type_v2",
    "torch FloatStorage",
    "collections OrderedDict",
    "builtins dict",
    "omegaconf.listconfig ListConfig",
)


@pytest.mark.parametrize("function", CODE)
@pytest.mark.parametrize("place", ["entry", "attribute", "alone"])
def test_code_is_not_run(function, place, path, tmp_path):
    touched = tmp_path / "touched"
    code = f"touch {touched}" if "system" in function else f"open({str(touched)!r}, 'w')"
    bad = w.call(w.name(*function.split()), w.value(code))
    attribute = w.built(w.dict_of({"a": w.tensor("0", BASE)}, w.ORDERED), w.dict_of({"b": bad}))
    content = {"entry": w.dict_of({"a": bad}), "attribute": attribute, "alone": bad}[place]
    message = refused(w.write(path, content, {"0": BASE}))
    assert "asks for" in message and function.split()[0] in message
    assert not touched.exists()


@pytest.mark.parametrize("target", NAMED)
def test_a_pickle_cannot_change_the_classes_that_it_names(target, path):
    state = w.tuple_of(w.value({"planted": 1}), w.dict_of({"__new__": w.name("builtins", "dict")}))
    for bad in (state, w.dict_of({"__new__": w.name("builtins", "dict")})):
        content = w.dict_of({"a": w.built(w.name(*target.split()), bad)})
        assert "cannot be read" in refused(w.write(path, content, {}))
    wanted = {"a": BASE}
    np.testing.assert_array_equal(read(w.write_tensors(path, wanted))["a"], BASE)


def test_a_file_of_a_whole_model(path):
    module = w.name("torch.nn.modules.linear", "Linear") + b")\x81"
    message = refused(w.write(path, module, {}))
    assert "asks for torch.nn.modules.linear.Linear" in message and "state_dict()" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (w.value([1, 2]), "holds no dict of tensors"),
        (w.value({"step": 3}), "has an entry 'step' that is no tensor"),
        (w.value({"model": {}}), "has an entry 'model' that is no tensor"),
        (b"", "cannot be read"),
        (b"\x85", "cannot be read"),
        (b"(" * 3, "cannot be read"),
    ],
)
def test_other_content(content, said, path):
    assert said in refused(w.write(path, content, {}))


def test_a_dtype_that_is_not_known(path):
    stored = w.storage("0", "ComplexFloatStorage", 3)
    assert "asks for torch.ComplexFloatStorage" in refused(w.write(path, stored, {}))


@pytest.mark.parametrize(
    "view",
    [
        w.view("0", BASE, 0, (25,), (1,)),
        w.view("0", BASE, 1, (4, 6), (6, 1)),
        w.view("0", BASE, -1, (2,), (1,)),
        w.view("0", BASE, 0, (2,), (-1,)),
        w.view("0", BASE, 0, (2,), (2**62,)),
        w.view("0", BASE, 0, (2, 2), (1,)),
        w.view("0", BASE, 0, (2.0,), (1,)),
        w.view("0", BASE, 0, [2], [1]),
        w.view("1", BASE, 0, (2,), (1,)),
        w.view("0", np.arange(99, dtype=np.float32), 0, (99,), (1,)),
        w.call(w.name("torch._utils", "_rebuild_tensor_v2"), *map(w.value, (None, 0, (1,), (1,)))),
    ],
)
def test_a_tensor_outside_its_storage(view, path):
    message = refused(w.write(path, w.dict_of({"a": view}), {"0": BASE}))
    assert "is damaged: a is not inside its storage" in message


def test_the_format_before_1_6(path):
    path.write_bytes(bytes.fromhex("80028a0a6cfc9c46f9206aa850192e8002"))
    assert "since version 1.6" in refused(path)


def test_a_torn_file(path):
    w.write_tensors(path, {"a": BASE})
    path.write_bytes(path.read_bytes()[:-40])
    assert "cannot be read" in refused(path)


def test_flipped_bits(path):
    content = w.write_tensors(path, {"a": BASE}).read_bytes()
    place = content.index(BASE.tobytes())
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    assert "Bad CRC-32" in refused(path)


def test_another_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", "c")
    assert "it has no data.pkl" in refused(path)


def test_another_byte_order(path):
    assert "big-endian" in refused(w.write(path, w.value({}), {}, byteorder="big"))


def test_no_file(path):
    assert "cannot be read" in refused(path)


def test_files_of_pytorch_itself(path):
    torch = pytest.importorskip("torch")
    square = torch.arange(24.0).reshape(4, 6)
    layer = torch.nn.Linear(3, 2).to(torch.bfloat16)
    layer.weight.group = {"betas": [0.9, 0.95]}
    wanted = {"t": square.T, "s": square[1:, ::2], "h": square.half(), "e": square[:1].expand(3, 6)}
    wanted |= layer.state_dict(keep_vars=True)
    torch.save(wanted, path)
    found = read(path)
    assert found["weight"].dtype == ml_dtypes.bfloat16
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(
            found[name].astype(np.float32), tensor.detach().float().numpy()
        )
    torch.save(wanted, path, _use_new_zipfile_serialization=False)
    assert "since version 1.6" in refused(path)

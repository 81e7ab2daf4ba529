"""Damaged checkpoints: what is read is what was saved, or is skipped."""

import gc
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.training.checkpoints.checkpoint import FOLDER, Checkpoints, load_model
from bytelm.training.checkpoints.reading import hush_stragglers
from bytelm.training.loop import train
from bytelm.training.program import build_program
from tests.training.tiny_run import STEPS, assert_same, params

LAST = f"{FOLDER}/{STEPS}"


STRAGGLERS = "coroutine .* was never awaited"
"""A warning of abandoned reads, which a program ignores (`hush_stragglers`)."""

pytestmark = pytest.mark.filterwarnings(f"ignore:{STRAGGLERS}")


@pytest.fixture(autouse=True)
def free_abandoned_reads():
    """Frees them here, where the filter above is active."""
    yield
    gc.collect()


def damage(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def value_of(items: tuple) -> tuple:
    return jax.tree.map(np.asarray, items)


@pytest.fixture(scope="module")
def resume(config):
    """Reads a checkpoint to resume from: its step, and the rest."""
    mesh = config.mesh.build()
    program = build_program(config, mesh)

    def read(run: Path):
        with jax.set_mesh(mesh):
            checkpoints = Checkpoints(run, 3)
            found = checkpoints.restore(program.abstract_state, program.shardings)
            checkpoints.close()
        return found.step, value_of((found.state, found.data, found.provenance))

    return read


def load(run: Path):
    found = load_model(run)
    return found.step, value_of((found.params, found.provenance)), found.config


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A bit, a byte or the end of a file is wrong, or 64 bytes of it are zero."""
    new, place = bytearray(content), rng.integers(len(content))
    match rng.integers(4):
        case 0:
            new[place] ^= 1 << rng.integers(8)
        case 1:
            new[place] = rng.integers(256)
        case 2:
            new = new[:place]
        case 3:
            new[place : place + 64] = bytes(len(new[place : place + 64]))
    return bytes(new)


def test_whatever_is_damaged_right_values_are_read(whole, resume, tmp_path):
    good = {}
    for step in (4, STEPS):
        run = tmp_path / str(step)
        shutil.copytree(whole, run, copy_function=os.link)
        if step == 4:
            shutil.rmtree(run / LAST)
        good[step] = resume(run), load(run)
    rng = np.random.default_rng(0)
    files = [path for path in sorted((whole / LAST).rglob("*")) if path.is_file()]
    passed_over = 0
    for path in files:
        run = tmp_path / "damaged"
        shutil.copytree(whole, run, copy_function=os.link)
        damage(run / path.relative_to(whole), damaged(path.read_bytes(), rng))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", STRAGGLERS, RuntimeWarning)
            for number, read in enumerate((resume, load)):
                found = read(run)
                assert_same(found, good[found[0]][number])
                passed_over += found[0] == 4
        assert all("is skipped" in str(w.message) or "damaged" in str(w.message) for w in said)
        shutil.rmtree(run)
    assert passed_over > 10


def test_arrays_that_can_be_read_and_are_wrong(run, config, whole, monkeypatch):
    # The parameters of another step: nothing but their values is wrong.
    shutil.rmtree(run / LAST / "params")
    shutil.copytree(run / FOLDER / "4" / "params", run / LAST / "params")
    with pytest.warns(UserWarning, match=rf"{LAST} cannot be read.*params/.* differ from"):
        assert load_model(run).step == 4
    assert load_model(run, verify=False).step == STEPS
    with pytest.warns(UserWarning, match=f"{LAST} cannot be read"):
        assert train(config, run, resume=True).step == STEPS
    assert_same(params(run), params(whole))


@pytest.mark.parametrize("item", ["config", "data", "provenance"])
@pytest.mark.parametrize("content", [b"[1, 2]", b"{}", b"null", b'{"train": 3}'])
def test_json_of_another_shape(run, resume, item, content):
    damage(run / LAST / item / "metadata", content)
    with pytest.warns(UserWarning, match=f"{item} differ from the digests"):
        assert resume(run)[0] == 4


def test_a_checkpoint_that_is_asked_for_is_not_replaced(run):
    damage(run / LAST / "config" / "metadata", b"{}")
    with pytest.warns(UserWarning, match=r"config differ"), pytest.raises(UserError):
        load_model(run, STEPS)


def test_an_old_checkpoint_has_no_digests(run, whole):
    shutil.rmtree(run / LAST / "digests")
    with pytest.warns(UserWarning, match=r"has no digests.*older version"):
        found = load_model(run)
    assert_same(jax.tree.map(np.asarray, found.params), params(whole))


@pytest.mark.parametrize("content", [b'{"validation_bits": 0.5}', b"[]", b"{", b"\xff", b"null"])
def test_a_damaged_score_is_put_right(run, content):
    path = run / LAST / "metrics" / "metrics"
    score = json.loads(path.read_bytes())
    damage(path, content)
    with pytest.warns(UserWarning, match=r"was damaged and has been repaired"):
        Checkpoints(run, 3).close()
    assert json.loads(path.read_bytes()) == score


def test_a_score_that_is_lost(run):
    damage(run / LAST / "metrics" / "metrics", b"{")
    damage(run / LAST / "loop" / "metadata", b"[]")
    with pytest.warns(UserWarning, match=r"kept as one without validation"):
        Checkpoints(run, 3).close()
    assert (run / LAST / "damaged_metrics" / "metrics").read_bytes() == b"{"


def test_writes_that_were_given_up_say_nothing(tmp_path, monkeypatch):
    """As on a full disk, where the others of a checkpoint's arrays fail later."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    hush_stragglers.cache_clear()
    Checkpoints(tmp_path, keep=1).close()
    for words in ("Event loop is closed", "something else"):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(words)))
    assert [str(one.exc_value) for one in said] == ["something else"]
    hush_stragglers.cache_clear()

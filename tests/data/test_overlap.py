"""Shared text is found by windows, exactly."""

import numpy as np
import pytest

from bytelm.data.config import Files, HuggingFace, PythonLibrary, Tfds
from bytelm.data.overlap import TOGETHER, WINDOW, named_source, shared_text, window_hashes


def brute_force(documents, others):
    """The bytes of each document in windows that stand in another document."""
    windows = {other[i : i + WINDOW] for other in others for i in range(len(other) - WINDOW + 1)}
    counts = []
    for document in documents:
        shared = set()
        for i in range(len(document) - WINDOW + 1):
            if document[i : i + WINDOW] in windows:
                shared |= set(range(i, i + WINDOW))
        counts.append(len(shared))
    return counts


def test_shared_bytes_are_those_of_brute_force():
    generator = np.random.default_rng(0)
    text = generator.integers(0, 256, 4000, np.uint8).tobytes()
    others = [text[:500], text[500:700], b"", text[900:959], bytes(200)]
    documents = [
        text[100:220],  # all of it
        text[440:560],  # 60 bytes on either side of two documents' edge
        text[450:550],  # its parts are too short on either side
        text[890:970],  # one byte short of a window
        text[2000:2300],
        b"",
        b"x" * 10 + bytes(70) + b"y",
    ]
    found = shared_text(documents, others)
    assert found.shared.tolist() == brute_force(documents, others) == [120, 120, 0, 0, 0, 0, 70]
    assert found.sizes.tolist() == list(map(len, documents))
    assert found.examples[1] == text[440:500]
    assert found.examples[4] == b""


def test_a_window_has_one_hash_wherever_it_stands():
    text = np.random.default_rng(1).integers(0, 4, 3000, np.uint8)
    hashes = window_hashes(text)
    assert len(hashes) == 3000 - WINDOW + 1
    assert len(np.unique(hashes)) == len(hashes)
    np.testing.assert_array_equal(window_hashes(text[123:]), hashes[123:])
    assert len(window_hashes(text[: WINDOW - 1])) == 0
    changed = text.copy()
    changed[WINDOW - 1] ^= 1  # the last byte of the first window counts
    assert window_hashes(changed)[0] != hashes[0]


def test_others_are_read_in_batches():
    text = np.random.default_rng(2).integers(0, 256, 100, np.uint8).tobytes()
    read = []
    found = shared_text([text], (bytes(TOGETHER) + text for _ in range(3)), read.append)
    assert found.shared.tolist() == [100]
    assert read == [TOGETHER + 100] * 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hf:allenai/c4/en", HuggingFace),
        ("python_stdlib", PythonLibrary),
        ("wiki40b/en:1.0.0", Tfds),
        ("train/*.jsonl", Files),
        ("books.txt", Files),
    ],
)
def test_names_of_sources(name, kind):
    assert type(named_source(name)) is kind

"""The diagnostic tasks delete the right letters, and as many as published."""

import re

import numpy as np
import pytest

from bytelm.core.vocabulary import END
from bytelm.data.tasks.diagnostics import DiagnosticRows
from bytelm.data.tasks.task import Task
from bytelm.data.text_record import SPLITS


@pytest.mark.parametrize(
    ("task", "text", "wanted"),
    [
        ("vowel_removal", b"aBcEEyz", b"Bcyz"),
        ("contextual_vowel_removal", b"abaeBaBeyAzOO", b"abeBaBeyzO"),
        ("merge_abc", b"ABCABCABxABBCabcABC", b"DDABxABBCabcD"),
    ],
)
def test_targets(task, text, wanted):
    assert Task.variants[task]().target(text) == wanted


def rows_of(task, split="train", seed=0):
    return DiagnosticRows(Task.variants[task](), 64, split, seed)


@pytest.mark.parametrize(
    ("task", "least", "most"),
    [
        ("vowel_removal", 0.186, 0.201),
        ("contextual_vowel_removal", 0.15, 0.25),
        ("merge_abc", 0.13, 0.2),
    ],
)
def test_what_can_be_deleted(task, least, most):
    found = [rows_of(task).texts(index) for index in range(400)]
    assert all(re.fullmatch(rb"[a-zA-Z]{63}", text) for text, _ in found)
    shorter = [1 - len(wanted) / len(text) for text, wanted in found]
    assert least < np.mean(shorter) < most
    assert np.std(shorter) > 0.03


def test_what_is_planted_is_no_certain_sign():
    texts = b"".join(rows_of("contextual_vowel_removal").texts(index)[0] for index in range(50))
    kept = re.findall(rb"[A-Zaeiou][aeiouAEIOU]", texts)
    removed = re.findall(rb"[b-df-hj-np-tv-z][aeiouAEIOU]", texts)
    assert 0.5 < len(kept) / len(removed) < 2


def test_rows_depend_on_task_seed_split_and_number_alone():
    texts = [
        rows_of(task, split, seed).texts(index)[0]
        for task, kind in Task.variants.items()
        if kind.makes_text
        for split in SPLITS
        for seed in range(3)
        for index in (0, 1, 2**31 - 1)
    ]
    assert len(set(texts)) == len(texts)
    assert rows_of("merge_abc", "test", 2).texts(1) == rows_of("merge_abc", "test", 2).texts(1)


def test_a_batch():
    rows = rows_of("vowel_removal")
    batch = rows.batch([5, 9], [0, 1])
    text, wanted = rows.texts(9)
    assert bytes(batch["inputs"][1, :-1].tolist()) == text
    assert batch["inputs"][1, -1] == END
    assert batch["targets"][1][: len(wanted) + 1].tolist() == [*wanted, END]
    assert batch["document_ids"][1].sum() == len(wanted) + 1
    assert "scripts" not in batch

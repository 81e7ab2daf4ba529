import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.core.vocabulary import END, START
from bytelm.inference.by_document import by_document
from bytelm.inference.scoring import window_batches


@pytest.mark.parametrize("stride", [None, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_value_comes_from_the_window_that_scores_it(stride, batch_size):
    documents = [bytes(range(200)), b"", b"ab", b"abcdefgh" * 20, b"x"]
    batches = window_batches(documents, 128, stride, batch_size)
    found = list(by_document(lambda batch: (batch.targets, (jnp.asarray(batch.ids),)), batches))
    assert sorted(each.number for each in found) == list(range(5))
    for number, size, symbols, (targets, (ids,)) in found:
        text = documents[number]
        assert size == len(text) and symbols.tolist() == list(text)
        assert targets.tolist() == [*text, END] and ids.tolist() == [START, *text]


def test_few_documents_are_held():
    asked = []

    def documents():
        for number in range(40):
            asked.append(number)
            yield b"x" * 100

    found = by_document(
        lambda batch: np.zeros(batch.ids.shape), window_batches(documents(), 128, None, 2)
    )
    next(found)
    assert len(asked) < 12

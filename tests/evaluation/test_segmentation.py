import numpy as np
import pytest

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.evaluation.suite import evaluate
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.models.families import FAMILIES, LENGTH, split_model

TEXTS = ["one two three", "", "some more words here", "naïve  日本"] * 4


def load(family):
    config = ExperimentConfig(model=FAMILIES[family], data=DataConfig(sequence_length=LENGTH))
    return LoadedModel(SavedModel(config, 7, *split_model(FAMILIES[family]), {}))


def test_figures_are_sums_over_the_documents():
    model = load("spacebyte")
    report = evaluate(model, TEXTS, ["segmentation"])
    cut = model.segment_all([text for text in TEXTS if text])
    lengths = np.concatenate([found.lengths for found in cut])
    assert report.figures["bytes_per_patch"].value == pytest.approx(lengths.mean())
    low, high = report.figures["bytes_per_patch"].interval
    assert low < lengths.mean() < high
    words = [found.word_agreement for found in cut]
    hits, expected = (sum(getattr(w, name) for w in words) for name in ("hits", "expected"))
    assert report.figures["word_start/recall"].value == pytest.approx(hits / expected)
    assert set(report.figures) == {"bytes_per_patch"} | {
        f"{start}/{measure}"
        for start in ("word_start", "whitespace_start")
        for measure in ("precision", "recall", "f1")
    }
    details = report.results["segmentation"].details
    assert details["patches"] == len(lengths) == sum(details["patches_by_length"].values())


def test_texts_and_models_without_patches():
    with pytest.raises(UserError, match="no bytes"):
        evaluate(load("spacebyte"), [""], ["segmentation"])
    with pytest.raises(UserError, match="needs a model with patches"):
        evaluate(load("transformer"), TEXTS, ["segmentation"])

"""What an encoder-decoder's report says, against a restatement on the same rows."""

import dataclasses
import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD, UNSCORED
from bytelm.data.config import DataConfig, Files, Pairs, VowelRemoval
from bytelm.data.open_data import OpenData
from bytelm.data.validation import ValidationBatches
from bytelm.evaluation.report import print_report, write_report
from bytelm.evaluation.suite import evaluate
from bytelm.evaluation.text import evaluation_text
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig

SIZES = {
    "width": 16,
    "encoder_depth": 2,
    "decoder_depth": 1,
    "heads": 2,
    "head_width": 8,
    "mlp_width": 16,
}
CONFIGS = {
    "mrt5": MrT5Config(**SIZES, gate_depth=1, shortening=GateShortening()),
    "byt5": ByT5Config(**SIZES),
}
INPUTS, TARGETS, BATCH = 29, 8, 8
WORDS = ["to be", "or not to be", "быть", "или не быть", "that is the", "вопрос", "question"]
SCRIPTS = ("rus", "eng")


def saved_model(family):
    """A model that deletes about half of its inputs, writes ASCII, and ends where ~ is likely."""
    config = CONFIGS[family]
    graphdef, params = nnx.split(config.build(nnx.Rngs(0)))
    params = nnx.to_pure_dict(params)
    columns = np.arange(384)
    head = params["head"]["kernel"] * jnp.asarray(columns < 128)[None, :]
    params["head"]["kernel"] = head.at[:, END].set(1.2 * head[:, ord("~")])
    if family == "mrt5":
        params["shortener"]["bias"] *= 0
    return graphdef, params


def values(report):
    return {name: figure.value for name, figure in report.figures.items()}


def script_of(text):
    return "eng" if text.isascii() else "rus"


@pytest.fixture(scope="module")
def models():
    data = DataConfig(task=VowelRemoval(), sequence_length=INPUTS)
    found = {}
    for name, config in CONFIGS.items():
        saved = SavedModel(ExperimentConfig(config, data), 7, *saved_model(name), {})
        found[name] = LoadedModel(saved)
    return found


@pytest.fixture(scope="module")
def written(models):
    """What the MrT5 writes for each input, without a limit that matters."""
    texts = models["mrt5"].transducer.greedy([w.encode() for w in WORDS], max_bytes=TARGETS + 9)
    assert all(text.isascii() for text in texts)
    return texts


@pytest.fixture(scope="module")
def targets(written):
    """Half of what the MrT5 writes where it ends, else as much as a row has room for."""
    found = []
    for number, text in enumerate(written):
        ended = len(text) < TARGETS
        found.append(text[:number] if ended and number % 2 else text[: TARGETS - 1])
    exact = [text == target for text, target in zip(written, found, strict=True)]
    cut = [len(text) >= TARGETS for text in written]
    assert any(exact) and any(cut)
    return found


@pytest.fixture(scope="module")
def data(targets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    lines = [
        {"in": word, "out": target.decode(), "of": script_of(word)}
        for word, target in zip(WORDS, targets, strict=True)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return DataConfig(
        source=Files(
            files=(str(folder / "pairs.jsonl"),),
            text_key="in",
            target_key="out",
            script_key="of",
            held_out=0.0,
        ),
        task=Pairs(target_length=TARGETS),
        scripts=SCRIPTS,
        sequence_length=INPUTS,
        cache_dir=str(folder / "cache"),
    )


@pytest.fixture(scope="module")
def reports(models, data):
    return {
        name: evaluate(model, evaluation_text(model, data, "train"), batch_size=BATCH)
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def restated(data):
    """Nats of the targets with states removed and with states hidden, and what is deleted."""
    graphdef, params = saved_model("mrt5")
    (batch,) = ValidationBatches(OpenData(data), None, "train", batch_size=BATCH)

    @jax.jit
    def run(params, batch, keys):
        model = nnx.merge(graphdef, params)
        hard, soft = model(batch), model(dataclasses.replace(batch, keys=keys))
        right = hard.logits.argmax(axis=2) == batch.targets
        return hard.nats(batch.targets), soft.nats(batch.targets), right, hard.deleted

    keys = jnp.zeros((BATCH, 2), jnp.uint32)
    return batch, *map(np.asarray, run(params, batch, keys))


def test_bits_are_those_of_the_whole_model(reports, restated):
    found = values(reports["mrt5"])
    batch, hard, soft, right, _ = restated
    scored = batch.targets != UNSCORED
    is_byte = scored & (batch.targets != END)
    for counted, end in ((scored, "_with_end"), (is_byte, "")):
        bits, soft_bits = (
            nats[counted].sum(dtype=np.float64) / math.log(2) / counted.sum()
            for nats in (hard, soft)
        )
        assert found[f"bits_per_target_byte{end}"] == pytest.approx(bits, rel=1e-5)
        assert found[f"soft_bits_per_target_byte{end}"] == pytest.approx(soft_bits, rel=1e-5)
        assert abs(soft_bits - bits) > 1e-4
    assert found["target_accuracy"] == pytest.approx(right[scored].mean())
    documents = reports["mrt5"].results["targets"].documents
    assert documents.bytes.tolist() == is_byte.sum(axis=1)[: len(WORDS)].tolist()
    assert documents.bits.sum() / documents.bytes.sum() == found["bits_per_target_byte"]


@pytest.mark.parametrize("family", CONFIGS)
def test_what_was_scored(family, reports, restated):
    report, batch = reports[family], restated[0]
    details = report.results["targets"].details
    assert details["targets"] == (batch.targets != UNSCORED).sum()
    assert details["inputs"] == (batch.inputs != PAD).sum()
    assert (details["rows"], report.step, details["task"]) == (len(WORDS), 7, "pairs")
    assert report.figures["bits_per_target_byte"].interval is None  # seven words are too few


def test_what_is_deleted(reports, restated):
    report, details = values(reports["mrt5"]), reports["mrt5"].results["targets"].details
    batch, *_, deleted = restated
    inputs = batch.inputs
    there = inputs != PAD
    assert 0.1 < report["deleted"] < 0.9
    assert report["deleted"] == pytest.approx(deleted.sum() / there.sum())
    counts = {
        str(symbol): [int((inputs == symbol).sum()), int(deleted[inputs == symbol].sum())]
        for symbol in np.unique(inputs[there])
    }
    assert details["deleted_by_symbol"] == counts and str(END) in counts
    eng = np.array([script_of(word) == "eng" for word in WORDS])
    eng = np.pad(eng, (0, len(inputs) - len(eng)))
    shares = {
        "eng": deleted[eng].sum() / there[eng].sum(),
        "rus": deleted[~eng].sum() / there[~eng].sum(),
    }
    assert {name: report[f"deleted/{name}"] for name in shares} == pytest.approx(shares)
    read, kept = there.sum(axis=1), (there & ~deleted).sum(axis=1)
    flops = [
        sum(CONFIGS["mrt5"].encoder_flops(n, left) for n, left in zip(read, of, strict=True) if n)
        for of in (kept, read)
    ]
    assert report["encoder_flops_saved"] == pytest.approx(1 - flops[0] / flops[1])
    assert report["encoder_time_saved"] < 1


def test_a_model_that_does_not_shorten_has_no_figures_of_it(reports):
    for name in reports["byt5"].figures:
        assert "delet" not in name and "saved" not in name and "soft" not in name


def test_exact_matches_are_of_what_is_generated(reports, written, targets):
    exact = [text == target for text, target in zip(written, targets, strict=True)]
    match = reports["mrt5"].figures["exact_match"]
    # A target that the model would continue is not matched.
    assert match.value == pytest.approx(np.mean(exact))
    assert match.low <= match.value <= match.high
    examples = reports["mrt5"].results["targets"].details["examples"]
    assert [e["input"] for e in examples] == [repr(word.encode()) for word in WORDS]
    assert [e["target"] for e in examples] == [repr(target) for target in targets]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_report_is_printed_and_written(family, reports, tmp_path):
    out = io.StringIO()
    print_report(reports[family], Console(file=out, width=100))
    shown = out.getvalue()
    for words in ("bits/target byte", "exact_match", f"{len(WORDS)} rows"):
        assert words in shown
    assert ("deleted most" in shown) == ("deleted/eng" in shown) == (family == "mrt5")
    assert ("soft_bits" in shown) == ("encoder_time_saved" in shown) == (family == "mrt5")
    write_report(reports[family].to_json(), tmp_path / "report.json", tmp_path)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["details"]["targets"]["rows"] == len(WORDS)


def test_documents_have_no_targets(models):
    with pytest.raises(UserError, match=r"needs inputs with their targets.* vowel_removal"):
        evaluate(models["byt5"], ["a text"])

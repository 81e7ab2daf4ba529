"""BLT in Hugging Face's format: the golden checkpoint's numbers, and the same bits back."""

import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import bytelm
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.models import Batch
from bytelm.models.blt import BLTConfig
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.models.parameters import abstract_model
from bytelm.models.released.blt import BLTFormat
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.levels import Symbols
from bytelm.patching.segmenter import RulePatches
from bytelm.training.checkpoints.checkpoint import load_model, save_model
from bytelm.training.conversion import from_hf, to_hf
from bytelm.training.experiment import ExperimentConfig
from tests.models.compiled import padded, split_model

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CHECKPOINTS = [
    pytest.param(folder, id=folder.name)
    for folder in sorted(Path(os.environ.get("BYTELM_GOLDEN_DIR", "nowhere"), "blt").glob("hf_*"))
] or [pytest.param(None, marks=pytest.mark.skip(reason="BYTELM_GOLDEN_DIR is not set"))]
OUTPUTS = [*range(4, 260), 2]
"""Their ids of what we predict."""


@pytest.fixture(params=CHECKPOINTS, scope="module")
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "run"
    from_hf(str(folder), path)
    return path


def prompts(expected):
    return [expected[f"in.p{number}.tokens"][0] for number in range(int(expected["cfg.n_prompts"]))]


def text(tokens):
    """The bytes of their ids, without the START that stands before a prompt."""
    return bytes((tokens[tokens > 3] - 4).tolist())


def test_logits_and_patches_are_those_of_transformers(expected, run):
    saved = load_model(run)

    @jax.jit
    def outputs(params, batch):
        model = nnx.merge(saved.graphdef, params)
        cut = model.forward(Symbols.of_rows(batch.ids, batch.document_ids))[2][0]
        return model(batch).logits, cut.boundaries.hard

    given = [np.array([START, *text(tokens)]) for tokens in prompts(expected)]
    for tokens in prompts(expected):
        assert tokens[0] == 1 and (tokens[1:] > 3).all()
    # In rows of one length, each with a slot for every symbol.
    batch = padded(*given, rows=len(given), length=max(map(len, given)))
    logits, hard = map(np.asarray, outputs(saved.params, batch))
    for number, tokens in enumerate(given):
        wanted = expected[f"out.p{number}.logits"][0][:, OUTPUTS]
        np.testing.assert_allclose(logits[number, : len(tokens)], wanted, rtol=0, atol=2e-5)
        ends = hard[number, : len(tokens)]
        # Their lengths also count the next symbol.
        lengths = expected[f"out.p{number}.patch_lengths_next"][0]
        np.testing.assert_array_equal(np.flatnonzero(ends) + 1, np.cumsum(lengths)[:-1])


def test_greedy_bytes_are_those_of_transformers(expected, run):
    model, texts = bytelm.load(run), [text(tokens) for tokens in prompts(expected)]
    wanted = [text(expected[f"out.p{number}.generated"]) for number in range(len(texts))]
    count = int(expected["cfg.n_new"])
    assert {len(each) for each in wanted} == {count}
    # Eight rows of different lengths together, and each alone.
    rows = [*texts, *(texts[0][:length] for length in (0, 1, 4, 9, 21, 33))]
    together = model.generate(rows, max_bytes=count, temperature=0)
    assert together[: len(wanted)] == wanted
    # Copies of a row, so that nothing is compiled for one alone.
    copies = (model.generate([row] * len(rows), max_bytes=count, temperature=0) for row in rows)
    assert list(copies) == [[written] * len(rows) for written in together]


def test_there_and_back_gives_the_same_files(folder, run, tmp_path):
    to_hf(run, tmp_path / "back")
    found, wanted = load_file(tmp_path / "back" / WEIGHTS), load_file(folder / WEIGHTS)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].tobytes() == tensor.tobytes(), name
    again = json.loads((tmp_path / "back" / CONFIG).read_text())
    saved = json.loads((folder / CONFIG).read_text())
    assert BLTFormat().read_config(again, ()) == BLTFormat().read_config(saved, ())


def test_what_is_not_known_is_named(folder):
    saved = json.loads((folder / CONFIG).read_text())
    for changes, said in (
        ({"patching_mode": "space"}, "patching_mode is 'space' and not 'entropy'"),
        ({"patcher_config": None}, "patcher_config is no object"),
        ({"cross_attn_k": "2"}, "cross_attn_k is '2' and not a whole number"),
        ({"local_attention_window_len": 5}, "encoder_config.sliding_window is 16 and not 5"),
        (
            {"decoder_config": {**saved["decoder_config"], "num_attention_heads": 4}},
            "decoder_config.num_attention_heads is 4 and not 3",
        ),
        (
            {"global_config": {**saved["global_config"], "rms_norm_eps": 1e-6}},
            "global_config.rms_norm_eps is 1e-06 and not 1e-05",
        ),
        ({"max_patch_length": "4"}, "max_patch_length is '4' and not a whole number"),
        ({"patching_threshold": float("nan")}, "patching_threshold is nan and not a number"),
        (
            {"patcher_config": {**saved["patcher_config"], "rms_norm_eps": None}},
            "patcher_config.rms_norm_eps is None and not a number",
        ),
        (
            {"patcher_config": {**saved["patcher_config"], "rope_parameters": [1]}},
            "patcher_config.rope_theta is None and not a number",
        ),
    ):
        with pytest.raises(UserError, match="no BLT that is known") as error:
            BLTFormat().read_config({**saved, **changes}, ())
        assert said in str(error.value)


def random_blt(**options):
    """A tiny config of the released kind."""
    patcher = TransformerConfig(
        vocabulary=259,
        spare_rows=1,
        end_row=259,
        start_row=1,
        width=16,
        depth=1,
        head_width=8,
        window=6,
        norm_epsilon=1e-5,
    )
    segmenter = EntropyModelPatches(published_symbols=True, model=patcher)
    return BLTConfig(
        local_width=16,
        global_width=32,
        global_depth=1,
        head_width=8,
        decoder_depth=2,
        window=7,
        vectors=3,
        qk_norm=False,
        scaled_init=False,
        ngram_rows=89,
        bytes_per_slot=1.0,
        **{"segmenter": segmenter, "published_symbols": True, **options},
    )


@pytest.mark.parametrize("decoder_cross", ["all", "first"])
def test_transformers_computes_what_we_write(decoder_cross, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    symbols = np.random.default_rng(0).integers(0, 256, 30).astype(np.int32)
    ids = np.array([[START, *symbols]], np.int32)
    config = random_blt(decoder_cross=decoder_cross)
    _, params = split_model(config)
    segmenter = config.segmenter.build_alone(nnx.Rngs(0))
    nnx.update(segmenter, params["segmenter"])
    entropies = np.sort(np.asarray(segmenter.entropies(ids, np.ones_like(ids)))[0])
    middle = 10 + np.argmax(np.diff(entropies[10:20]))
    threshold = float(entropies[middle : middle + 2].mean())
    config = replace(config, segmenter=replace(config.segmenter, threshold=threshold))
    save_model(tmp_path / "run", ExperimentConfig(model=config), params, {})
    to_hf(tmp_path / "run", tmp_path / "hf")
    theirs = transformers.BltForCausalLM.from_pretrained(tmp_path / "hf", local_files_only=True)

    model = nnx.merge(abstract_model(config)[0], params)
    found = np.asarray(model(Batch(ids, ids, np.ones_like(ids))).logits)
    with torch.no_grad():
        tokens = torch.tensor([[1, *(symbols + 4)]]).long()
        wanted = theirs.eval()(input_ids=tokens, use_cache=False).logits.numpy()
    np.testing.assert_allclose(found, wanted[..., OUTPUTS], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"published_symbols": False}, "model.published_symbols is False and not True"),
        ({"encoder_patches": 2}, "model.encoder_patches is 2 and not 1"),
        ({"decoder_cross": "none"}, "it has no cross-attention in the decoder"),
        ({"segmenter": RulePatches("words")}, "are not those of a released entropy model"),
    ],
)
def test_what_the_format_cannot_store(options, said):
    with pytest.raises(UserError, match="format of BLT cannot store the model") as error:
        BLTFormat().files(random_blt(**options), 64)
    assert said in str(error.value)

"""What `transformers` makes of the same decoders of tokens; needs the extra `torch`."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import bytelm
from bytelm.training.conversion import from_hf, to_hf
from tests.models import tiny_decoder
from tests.models.tiny_decoder import CASES, TOKENIZER, WEIGHTS
from tests.models.tiny_t5 import assert_same

TEXTS = [b"the other", "caf\u00e9 the".encode(), b"t"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


def log_probabilities(torch, model, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    return torch.log_softmax(logits, dim=-1).numpy()


def nats_of(torch, model, special, tokens):
    """Of tokens between START and END, without and with END."""
    start, end = special
    found = log_probabilities(torch, model, [start, *tokens])
    costs = -found[np.arange(len(tokens) + 1), [*tokens, end]]
    return costs[:-1].sum(), costs[-1]


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_transformers(torch, transformers, case, tmp_path):
    saved = {**CASES[case]}
    kind = saved["architectures"][0]
    sizes = {name: value for name, value in saved.items() if name != "architectures"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = getattr(transformers, kind)(getattr(transformers, f"{kind[:-11]}Config")(**sizes))
        with torch.no_grad():
            for tensor in theirs.parameters():
                tensor += 0.3 * torch.randn_like(tensor)
    theirs.eval().save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / TOKENIZER).write_text(tiny_decoder.tokenizer_json())

    from_hf(str(tmp_path / "hf"), tmp_path / "run")
    ours = bytelm.load(tmp_path / "run")
    scores = ours.score_documents(TEXTS)
    special = saved["bos_token_id"], saved["eos_token_id"]
    wanted = [nats_of(torch, theirs, special, ours.tokenizer.encode(text)) for text in TEXTS]
    np.testing.assert_allclose(scores.byte_nats, [nats for nats, _ in wanted], atol=1e-4)
    np.testing.assert_allclose(scores.end_nats, [nats for _, nats in wanted], atol=1e-4)

    back = tmp_path / "back"
    to_hf(tmp_path / "run", back)
    assert_same(load_file(back / WEIGHTS), load_file(tmp_path / "hf" / WEIGHTS))
    again = transformers.AutoModelForCausalLM.from_pretrained(back, local_files_only=True)
    assert type(again) is type(theirs)
    ids = [special[0], *ours.tokenizer.encode(TEXTS[0]).tolist()]
    np.testing.assert_array_equal(
        log_probabilities(torch, again, ids), log_probabilities(torch, theirs, ids)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(back, local_files_only=True)
    for text in TEXTS:
        found = tokenizer(text.decode(), add_special_tokens=False)["input_ids"]
        assert found == ours.tokenizer.encode(text).tolist()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == special

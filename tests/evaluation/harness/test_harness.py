"""`lm_eval`'s own evaluation of our models against full forward passes, and our report of it."""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.evaluation import Harness, evaluate
from bytelm.evaluation.harness.answers import Answers
from bytelm.models.transformer import TransformerConfig
from tests.inference.test_continuations import brute_force, loaded
from tests.models.compiled import split_model
from tests.models.families import ENCODER_DECODERS, FAMILIES

pytest.importorskip("lm_eval")

QUESTIONS = [
    {"text": "The best of", "choices": ["times", "worlds"], "answer": 0},
    {"text": "naïve and", "choices": ["wise", "naïveté"], "answer": 1},
    {"text": "Call me", "choices": ["late", "a cab", "Ishmael"], "answer": 2},
    {"text": "The", "choices": ["日本", "end"], "answer": 1},
]
TASKS = {
    "choosing": """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
""",
    "reading": """
output_type: loglikelihood_rolling
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "writing": """
output_type: generate_until
doc_to_target: "{{text}}"
generation_kwargs: {until: ["e"], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}


@pytest.fixture(scope="module", autouse=True)
def datasets_cache(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (folder / "questions.jsonl").write_text(lines)
    for name, rest in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ntest_split: test\n"
        data = "dataset_kwargs: {data_files: {test: questions.jsonl}}\n"
        text = 'doc_to_text: "{{text}}"' if name != "reading" else 'doc_to_text: ""'
        (folder / f"{name}.yaml").write_text(head + data + text + rest)
    return folder


@pytest.fixture(scope="module", params=["transformer", "spacebyte", "hnet, attention"])
def model(request):
    return loaded(FAMILIES[request.param], context=64)


def tokens_model(tokenizer):
    config = TransformerConfig(width=16, depth=1, head_width=8, vocabulary=tokenizer.size)
    graphdef, params = split_model(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0, 0.3, leaf.shape).astype(np.float32)), params
    )
    return loaded(config, tokenizer, (graphdef, params), 64)


def samples_of(lm, folder, monkeypatch, names=tuple(TASKS), **options):
    """What `lm_eval`'s own function finds: the samples of each task, and all results."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.chdir(folder)
    found = lm_eval.simple_evaluate(
        model=lm,
        tasks=list(names),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        **options,
    )
    return found["samples"], found["results"]


def nats_of(model, before, after):
    """By one full pass over both texts; canonical tokens of a subword model."""
    if model.tokenizer is None:
        return brute_force(model, [START, *before.encode()], [*after.encode()])
    ids = model.tokenizer.encode((before + after).encode())
    ends = np.cumsum(model.tokenizer.byte_counts[ids])
    first = int(np.searchsorted(ends, len(before.encode()), side="right"))
    assert len(before.encode()) in [0, *ends]
    start = model.tokenizer.vocabulary.start
    return brute_force(model, [start, *ids[:first]], ids[first:])


def check(model, samples, results):
    hits = np.zeros((len(QUESTIONS), 3))
    for number, (question, sample) in enumerate(zip(QUESTIONS, samples["choosing"], strict=True)):
        choices = question["choices"]
        scores = [nats_of(model, question["text"], f" {choice}") for choice in choices]
        alone = [nats_of(model, "", f" {choice}") for choice in choices]
        for ((found, greedy),), (nats, right) in zip(
            sample["resps"], [*scores, *alone], strict=True
        ):
            assert found == pytest.approx(-nats, rel=1e-4) and greedy == right
        sums = -np.array([nats for nats, _ in scores])
        sizes = [len(choice.encode()) for choice in choices]
        less = sums + [nats for nats, _ in alone]
        hits[number] = [np.argmax(x) == question["answer"] for x in (sums, sums / sizes, less)]
    found = [
        results["choosing"][f"{name},none"] for name in ("acc", "acc_bytes", "acc_mutual_info")
    ]
    assert found == hits.mean(axis=0).tolist()

    nats = [nats_of(model, "", question["text"])[0] for question in QUESTIONS]
    for of_text, sample in zip(nats, samples["reading"], strict=True):
        assert sample["resps"] == [[pytest.approx(-of_text, rel=1e-4)]]
    size = sum(len(question["text"].encode()) for question in QUESTIONS)
    bits = results["reading"]["bits_per_byte,none"]
    assert bits == pytest.approx(sum(nats) / math.log(2) / size, rel=1e-4)

    texts = [question["text"] for question in QUESTIONS]
    written = model.generate(texts, max_bytes=4, temperature=0, stop="e")
    for text, sample in zip(written, samples["writing"], strict=True):
        assert sample["resps"] == [[text.decode(errors="replace")]]


def test_numbers_are_those_of_full_forward_passes(model, folder, monkeypatch):
    from bytelm.evaluation.harness.model import BytelmLM

    check(model, *samples_of(BytelmLM(model), folder, monkeypatch, bootstrap_iters=10))


def test_numbers_of_canonical_tokens(trained, folder, monkeypatch):
    from bytelm.evaluation.harness.model import BytelmLM

    model = tokens_model(trained["bpe"])
    lm = BytelmLM(model)
    check(model, *samples_of(lm, folder, monkeypatch, bootstrap_iters=10))
    assert lm.by_bytes == 0


@pytest.fixture(scope="module")
def flat():
    return loaded(FAMILIES["transformer"], context=64)


def test_the_report_has_every_metric_with_its_interval(flat, folder, capsys):
    suite = [Harness(tasks=("choosing", "r*", "writing"), path=str(folder))]
    report = evaluate(flat, suite=suite)
    shown = capsys.readouterr()
    assert "%|" not in shown.err and "bootstrapping" not in shown.out  # bars and prints of lm_eval
    figures = report.figures
    choosing = [f"harness/choosing/accuracy_{way}" for way in ("sum", "per_byte", "unconditional")]
    assert list(figures)[:3] == choosing
    for name in choosing:
        low, high = figures[name].interval
        assert 0 <= low <= figures[name].value <= high <= 1 and low < high
        assert figures[name].unit == "share"
    assert figures["harness/choosing/accuracy_chance"].value == pytest.approx(11 / 24)
    reading = figures["harness/reading/bits_per_byte"]
    assert reading.value == pytest.approx(
        flat.bits_per_byte([question["text"] for question in QUESTIONS]), rel=1e-5
    )
    assert reading.unit == "bpb" and "harness/writing/exact_match" in figures
    (result,) = report.results.values()
    assert "12 documents of 3 tasks" in result.notes
    assert any("acc_mutual_info" in note for note in result.notes)
    assert result.items[choosing[0]].sums.mean() == figures[choosing[0]].value
    assert result.text["documents"] == 4
    json.dumps(report.to_json())


def test_a_stopped_evaluation_goes_on(flat, folder, tmp_path, monkeypatch):
    from bytelm.evaluation.harness.model import BytelmLM

    path, own, asked = tmp_path / "answers", BytelmLM._score, []

    def stopping(self, todo):
        asked.append(len(todo))
        for count, answer in enumerate(own(self, todo)):
            if len(asked) == 1 and count == 5:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(BytelmLM, "_score", stopping)
    options = {"names": ["choosing"], "bootstrap_iters": 0}
    with pytest.raises(KeyboardInterrupt), Answers(path, "model") as answers:
        samples_of(BytelmLM(flat, answers=answers), folder, monkeypatch, **options)
    path.write_bytes(path.read_bytes() + b'["torn')
    with Answers(path, "model") as answers:
        resumed = samples_of(BytelmLM(flat, answers=answers), folder, monkeypatch, **options)
    # 9 choices, each with its context and without.
    assert asked == [18, 13]
    with Answers(path, "another model") as answers:
        whole = samples_of(BytelmLM(flat, answers=answers), folder, monkeypatch, **options)
    assert asked[2] == 18 and resumed[1] == whole[1]
    assert [each["resps"] for each in resumed[0]["choosing"]] == [
        [[tuple(found)] for ((found,),) in zip(each["resps"], strict=True)]
        for each in whole[0]["choosing"]
    ]
    with Answers(path), pytest.raises(UserError, match="being written by another command"):
        Answers(path)


def test_options_of_generation(flat):
    from lm_eval.api.instance import Instance

    from bytelm.evaluation.harness.model import BytelmLM

    def write(text, **options):
        request = Instance("generate_until", {}, (text, options), 0)
        return BytelmLM(flat).generate_until([request, request])

    first, second = write("It", do_sample=True, temperature=1.0, top_k=0, max_new_tokens=9)
    assert first != second and len(first.encode(errors="replace")) >= 1
    greedy = write("It", until="\n", temperature=0.7, do_sample=False, max_gen_toks=3)
    assert greedy[0] == greedy[1]
    with pytest.warns(UserWarning, match="cut from the left"):
        write("It was " * 20, max_gen_toks=3)
    with pytest.warns(UserWarning, match="that we lack: \\['num_beams'\\]"):
        write("It", num_beams=3, max_gen_toks=3)


def test_what_cannot_be_done_is_said_in_a_sentence(flat, folder, monkeypatch):
    from bytelm.evaluation.harness.model import BytelmLM

    with pytest.raises(UserError, match=r"no task 'chosing' in .*choosing.*have choosing, reading"):
        evaluate(flat, suite=[Harness(tasks=("chosing",), path=str(folder))])
    with pytest.raises(UserError, match="name tasks of lm_eval: --harness TASK"):
        evaluate(flat, suite=[Harness()])
    with pytest.raises(UserError, match="is no folder"):
        evaluate(flat, suite=[Harness(tasks=("a",), path="nowhere")])
    with pytest.raises(UserError, match="models targets given inputs"):
        BytelmLM(loaded(ENCODER_DECODERS["byt5"]))
    with pytest.raises(UserError, match=r"no option 'chekpoint'.*checkpoint"):
        BytelmLM.create_from_arg_string("chekpoint=run")
    with pytest.raises(UserError, match="checkpoint=RUN"):
        BytelmLM.create_from_arg_string("")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'bytelm\[harness\]'"):
        evaluate(flat, suite=[Harness(tasks=("choosing",), path=str(folder))])

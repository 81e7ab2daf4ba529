"""Means over seeds, paired differences and Pareto fronts."""

import dataclasses

import numpy as np
import pytest

from bytelm.experiments.records import RunRecord, run_figures
from bytelm.experiments.report.summary import breakdown, gather, paired_difference, pareto_front

BYTES = tuple(float(n) for n in np.random.default_rng(0).integers(50, 500, 30))


def run(contender, seed=0, bpb=2.0, *, state="done", sizes=BYTES, spread=0.1, **fields):
    """A run whose documents' bits per byte scatter around `bpb`."""
    noise = np.random.default_rng([seed, *contender.encode()]).normal(size=len(sizes))
    bits = tuple(float(b) for b in np.array(sizes) * (bpb + spread * noise))
    figures = run_figures({"bpb": sum(bits) / sum(sizes)})
    documents = {"document_bits": bits, "document_bytes": sizes}
    if state != "done":
        figures, documents = {}, {}
    return RunRecord(contender, "books", 1e15, seed, state, figures=figures, **documents, **fields)


def difference(*runs):
    ours, theirs = gather(runs)
    return paired_difference(ours, theirs)


def test_seeds_are_averaged_over_those_that_are_done():
    runs = [run("a", 0, 2.0), run("a", 1, 2.2), run("a", 2, state="failed")]
    (entry,) = gather(runs)
    values = [r.figures["bpb"].value for r in runs[:2]]
    assert entry.mean("bpb") == pytest.approx(sum(values) / 2)
    assert entry.spread("bpb") == (min(values), max(values))
    assert entry.mean("parameters") is None and entry.figure("bpb").interval is None


def test_entries_keep_the_order_of_first_mention_and_budgets_rise():
    keys = [("b", "y", 2e9), ("a", "y", 1e9), ("b", "x", 1e9), ("b", "y", 1e9)]
    entries = gather([RunRecord(c, corpus, b, 0, "waiting") for c, corpus, b in keys])
    found = [(entry.contender, entry.corpus, entry.budget) for entry in entries]
    assert found == [("b", "y", 1e9), ("a", "y", 1e9), ("b", "y", 2e9), ("b", "x", 1e9)]


def test_a_paired_difference_against_a_bootstrap_of_its_own():
    ours = [run("a", seed, 2.05) for seed in (0, 1)]
    theirs = [run("b", seed, 2.0) for seed in (0, 1)]
    found = difference(*ours, *theirs)
    bits = np.mean([r.document_bits for r in ours], 0) - np.mean(
        [r.document_bits for r in theirs], 0
    )
    assert found.value == pytest.approx(bits.sum() / sum(BYTES))
    generator = np.random.default_rng(7)
    drawn = [generator.choice(len(BYTES), len(BYTES)) for _ in range(4000)]
    ratios = [bits[d].sum() / np.array(BYTES)[d].sum() for d in drawn]
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert found.interval == pytest.approx((low, high), abs=0.004)
    by_seed = [
        a.figures["bpb"].value - b.figures["bpb"].value for a, b in zip(ours, theirs, strict=True)
    ]
    assert found.by_seed == pytest.approx((min(by_seed), max(by_seed)))
    assert (found.seeds, found.documents) == (2, 30)


def test_the_interval_is_paired():
    """What both models find hard cancels: documents differ much, the difference hardly."""
    hard = tuple(float(b) for b in np.array(BYTES) * np.linspace(1, 8, len(BYTES)))
    harder = tuple(bits + 0.01 * size for bits, size in zip(hard, BYTES, strict=True))
    runs = [
        RunRecord(name, "books", 1e15, 0, "done", document_bits=bits, document_bytes=BYTES)
        for name, bits in (("a", harder), ("b", hard))
    ]
    found = difference(*runs)
    assert found.interval == pytest.approx((0.01, 0.01)) and found.verdict == "yes, higher"
    assert difference(*runs[::-1]).verdict == "yes, lower"


def test_a_difference_that_is_noise_is_not_told():
    baseline = run("b")
    noise = 10.0 * np.resize([1, -1], len(BYTES))
    ours = dataclasses.replace(
        baseline, contender="a", document_bits=tuple(baseline.document_bits + noise)
    )
    found = difference(ours, baseline)
    assert found.verdict == "no" and found.interval[0] < 0 < found.interval[1]


def test_only_seeds_that_both_have_done_are_compared():
    found = difference(run("a", 0, 2.5), run("a", 1, 2.1), run("b", 1), run("b", 2, 9.0))
    assert found.seeds == 1 and found.by_seed is None
    assert found.value == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    "theirs",
    [
        run("b", 1),
        run("b", state="failed"),
        run("b", sizes=BYTES[:-1]),
        run("b", sizes=(*BYTES[:-1], BYTES[-1] + 1)),
        RunRecord("b", "books", 1e15, 0, "done", figures=run_figures({"bpb": 2.0})),
    ],
    ids=["another seed", "failed", "fewer documents", "other documents", "unknown documents"],
)
def test_what_cannot_be_compared_is_not(theirs):
    assert difference(run("a"), theirs) is None


def test_documents_that_are_unknown_on_both_sides():
    unknown = [RunRecord(name, "books", 1e15, 0, "done") for name in "ab"]
    assert difference(*unknown) is None


def test_a_single_document_has_a_difference_and_no_interval():
    found = difference(run("a", sizes=(100.0,)), run("b", sizes=(100.0,)))
    assert found.interval is None and found.verdict == ""
    assert found.documents == 1 and found.value != 0


@pytest.mark.parametrize(
    ("ours", "theirs", "sign"),
    [(True, False, "≤"), (False, True, "≥"), (True, True, ""), (False, False, "")],
)
def test_the_sign_of_a_difference_of_bounds(ours, theirs, sign):
    assert difference(run("a", upper_bound=ours), run("b", upper_bound=theirs)).sign == sign


def test_the_pareto_front():
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 3.0), (2.0, 2.0), (4.0, 1.0), (1.0, 4.0)]
    assert pareto_front(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    assert pareto_front([]) == []


def test_the_middles_of_a_breakdown():
    names = ("perturbed/swap/0.2/bpb", "perturbed/swap/0.05/bpb", "perturbed/caps/1/bpb")
    names += ("perturbed/caps/1/accuracy", "language/de/premium", "bpb")
    figures = run_figures(dict.fromkeys(names, 1.0))
    entries = gather([RunRecord("a", "books", 1e15, 0, "done", figures=figures)])
    assert breakdown(entries, "perturbed") == {
        "bpb": ["swap/0.05", "swap/0.2", "caps/1"],
        "accuracy": ["caps/1"],
    }
    assert breakdown(entries, "language") == {"premium": ["de"]}
    assert breakdown(entries, "adapted") == {}

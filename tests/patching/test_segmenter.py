"""What all segmenters promise, and which of them fit which families."""

import functools
import inspect

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.core.config_json import from_dict, to_dict
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import PAD, START
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.hat import HATConfig
from bytelm.models.hat2 import HAT2Config
from bytelm.models.parameters import abstract_model
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.patching.learned import EntropyPatches, GumbelPatches, UnigramPatches
from bytelm.patching.router import RouterPatches
from bytelm.patching.rules import RULES, find_edges, rule
from bytelm.patching.segmenter import FixedPatches, Needs, RulePatches, SegmenterConfig
from bytelm.patching.word_levels import WordGroups
from tests.models.nested import NestedConfig

ROWS, LENGTH, WIDTH = 8, 40, 6
NEEDS = {
    "starts": Needs("start", states=True, gradient=True),
    "ends": Needs("end", states=True, gradient=True),
}
SEGMENTERS = {
    **{rule: RulePatches(rule, 7) for rule in RULES if rule != "fixed"},
    "fixed": FixedPatches(3),
    "word_groups": WordGroups(),
    "gumbel": GumbelPatches(0.4),
    "gumbel, published": GumbelPatches(0.4, published=True),
    "entropy": EntropyPatches(rate=0.4),
    "router": RouterPatches(),
}
each = pytest.mark.parametrize("name", SEGMENTERS)
each_mark = pytest.mark.parametrize("mark", NEEDS)


@functools.cache
def segmenter(name, mark):
    """(states, ids, document_ids, carry, keys) -> hard boundaries and carry, and an empty carry."""
    config = SEGMENTERS[name]
    built = config.build(WIDTH, NEEDS[mark], norm="rms", relu=False, rngs=nnx.Rngs(0))
    run = jax.jit(built)
    return run, built.init_carry(ROWS, LENGTH, np.dtype("float32"))


def rows(seed=0):
    """States, ids and document ids: two documents in each row, then padding in some."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    text = np.frombuffer(b"The owl,  at night\tsaw 3 wonders.\n", np.uint8)
    ids = rng.choice(text, size=(ROWS, LENGTH)).astype(np.int32)
    cut, end = rng.integers(5, 25, (ROWS, 1)), rng.integers(30, LENGTH + 1, (ROWS, 1))
    index = np.arange(LENGTH)[None, :]
    document_ids = np.where(index < end, 1 + (index >= cut), 0).astype(np.int32)
    ids = np.where((index == 0) | (index == cut), START, ids)
    return states, np.where(document_ids > 0, ids, PAD).astype(np.int32), document_ids


@each
@each_mark
def test_there_are_some_boundaries_and_none_in_padding(name, mark):
    run, _ = segmenter(name, mark)
    states, ids, document_ids = rows()
    boundaries, _ = run(states, ids, document_ids, None, None)
    hard = np.asarray(boundaries.hard)
    assert not hard[document_ids == 0].any()
    assert 0.05 < hard[document_ids > 0].mean() < 0.9
    np.testing.assert_array_equal(np.asarray(boundaries.values > 0.5)[hard], True)
    if mark == "starts":
        first = np.diff(document_ids, axis=1, prepend=0) > 0
        assert hard[first].all()


@each
@each_mark
def test_symbols_read_in_turns_have_the_boundaries_of_the_whole(name, mark):
    run, carry = segmenter(name, mark)
    states, ids, _ = rows()
    one = np.ones_like(ids)
    whole, last = run(states, ids, one, None, None)
    rng = np.random.default_rng(1)
    found, done = np.zeros(ids.shape, bool), np.zeros((ROWS, 1), int)
    while (done < LENGTH).any():
        lengths = np.minimum(rng.integers(6, size=(ROWS, 1)), LENGTH - done)
        index = np.minimum(done + np.arange(5)[None, :], LENGTH - 1)
        valid = np.arange(5)[None, :] < lengths
        taken = np.take_along_axis(states, index[:, :, None], axis=1)
        symbols = np.take_along_axis(ids, index, axis=1)
        boundaries, carry = run(taken, symbols, valid.astype(np.int32), carry, None)
        row = np.nonzero(valid)[0]
        found[row, index[valid]] = np.asarray(boundaries.hard)[valid]
        done = done + lengths
    np.testing.assert_array_equal(found, whole.hard)
    jax.tree.map(np.testing.assert_array_equal, carry, last)


@each
@each_mark
def test_what_follows_changes_no_boundary_and_documents_stand_alone(name, mark):
    run, _ = segmenter(name, mark)
    keys = np.random.default_rng(2).integers(0, 2**32, (ROWS, 2), dtype=np.uint32)
    states, ids, document_ids = rows()
    before, _ = run(states, ids, document_ids, None, keys)
    others = rows(seed=3)
    second = document_ids == 2
    changed = np.where(second[:, :, None], states, others[0]), np.where(second, ids, others[1])
    after, _ = run(*changed, document_ids, None, keys)
    np.testing.assert_array_equal(np.asarray(before.hard)[second], np.asarray(after.hard)[second])
    later = np.arange(LENGTH)[None, :] >= 20
    changed = np.where(later[:, :, None], others[0], states), np.where(later, others[1], ids)
    after, _ = run(*changed, document_ids, None, keys)
    np.testing.assert_array_equal(before.hard[:, :20], after.hard[:, :20])


@pytest.mark.parametrize(
    ("family", "fitting", "refused"),
    [
        (SpaceByteConfig, ["words", "fixed", "gumbel", "entropy", "router"], {}),
        (DynamicPoolingConfig, ["words", "space", "fixed", "gumbel", "entropy", "router"], {}),
        (HAT2Config, ["whitespace", "fixed", "entropy"], {"gumbel": "the model's loss"}),
        (
            HATConfig,
            ["whitespace", "space", "fixed"],
            {"words": "only at the next byte", "spacelike": "only at", "entropy": "reads states"},
        ),
    ],
)
def test_a_family_takes_what_fits(family, fitting, refused):
    for name in fitting:
        assert family(segmenter=SEGMENTERS[name]).segmenter == SEGMENTERS[name]
    for name, reason in refused.items():
        with pytest.raises(UserError, match=f"{name} does not fit the family .*{reason}"):
            family(segmenter=SEGMENTERS[name])


def test_hat_needs_a_longest_patch():
    with pytest.raises(UserError, match="has no longest patch; set longest_patch"):
        HATConfig(segmenter=RulePatches("space"))


def test_a_family_hands_on_what_its_segmenter_needs():
    assert SpaceByteConfig(segmenter=UnigramPatches()).needs_unigram
    assert not SpaceByteConfig().needs_unigram
    assert FixedPatches(9).default_bytes_per_slot == 8.0
    learned = SpaceByteConfig(segmenter=EntropyPatches(hidden=10))
    extra = learned.forward_flops(100, 20.0) - SpaceByteConfig().forward_flops(100, 20.0)
    assert extra == 2.0 * 100 * 10 * (learned.local_width + 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RulePatches("wrds"), r"\.rule is 'wrds' \(did you mean words\?\); choose one of"),
        (RulePatches("fixed"), r"\.rule .*for a fixed length use FixedPatches"),
        (RulePatches("words", 0), r"\.longest_patch is 0"),
        (FixedPatches(0), r"\.patch_size is 0; it must be at least 1"),
        (GumbelPatches(rate=1.0), r"\.rate is 1\.0; it must be between 0 and 1"),
        (GumbelPatches(weight=-1.0), r"\.weight is -1\.0"),
        (GumbelPatches(temperature=0.0), r"\.temperature is 0\.0"),
        (EntropyPatches(left=0), r"\.left is 0"),
        (RouterPatches(target=1.0), r"\.target is 1\.0; it must be above 1"),
        (RouterPatches(weight=-1.0), r"\.weight is -1\.0; it must be at least 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_own_path(config, message):
    with pytest.raises(UserError, match=rf"^model\.segmenter{message}"):
        SpaceByteConfig(segmenter=config)
    with pytest.raises(UserError, match=rf"^model\.inner_segmenter{message}"):
        NestedConfig(inner_segmenter=config)


def test_all_segmenters_are_registered():
    rules, learned = {"rule", "fixed", "word_groups"}, {"gumbel", "entropy", "unigram"}
    known = rules | learned | {"flexitokens", "router"}
    assert known <= set(SegmenterConfig.variants)


def test_the_help_names_every_rule():
    source = inspect.getsource(RulePatches)
    missing = [name for name in RULES if name != "fixed" and name not in source]
    assert not missing, "add them to the docstring of RulePatches.rule"


@pytest.fixture
def own_rules():
    """Rules that a test registers are forgotten."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda symbols: symbols[7] == 32, r"IndexError: .*test_segmenter.py, line \d+\).*ls\[6\]"),
        (lambda symbols: symbols[0] == 32 and symbols[1] == 32, "truth value.*no `if`"),
        (lambda symbols: None, "returns None .*test_segmenter.py, line"),
        (lambda symbols: symbols[0], "must return a bool for each symbol"),
        (lambda symbols: (symbols[0] == 32).any(), "must return a bool for each symbol"),
    ],
)
def test_a_wrong_rule_is_named(own_rules, find, message):
    rule("wrong", marks="end")(find)
    with pytest.raises(UserError, match=f"rule 'wrong' .*{message}"):
        RulePatches("wrong").build(WIDTH, NEEDS["ends"], norm=None, relu=False, rngs=nnx.Rngs(0))
    ids = np.array([[START]], np.int32)
    with pytest.raises(UserError, match="rule 'wrong'"):
        find_edges("wrong", ids, ids)


def test_a_rule_of_bytelm_is_not_replaced(own_rules):
    def _spacelike(symbols): ...

    _spacelike.__qualname__ = "_spacelike"
    with pytest.raises(UserError, match="rule 'spacelike' already"):
        rule("spacelike", marks="start")(_spacelike)
    with pytest.raises(UserError, match=r"marks='starts'; choose \"start\" or \"end\""):
        rule("mine", marks="starts")


def test_a_saved_rule_of_ones_own_says_its_file(own_rules):
    @rule("mine", marks="end")
    def commas(symbols): ...

    saved = to_dict(RulePatches("mine"))
    assert saved["defined_in"] == __file__ and "defined_in" not in to_dict(RulePatches())
    assert from_dict(saved, SegmenterConfig) == RulePatches("mine")
    del RULES["mine"]
    with pytest.raises(UserError, match=f"rule is 'mine'.*: add --import {__file__}"):
        from_dict(saved, SegmenterConfig)
    with pytest.raises(UserError, match=r"'mine'; choose .*of your own defines it, add --import"):
        SpaceByteConfig(segmenter=RulePatches("mine"))


def test_a_rule_that_is_defined_again_as_in_a_notebook_is_compiled_again(own_rules):
    ids = np.array([[START, *b"a,b.c"]], np.int32)
    one, configs, run = np.ones_like(ids), [], jax.jit(lambda model, *rows: model(None, *rows))
    for byte in b",.":

        @rule("mine", marks="end")
        def mine(symbols, byte=byte):
            return symbols[0] == byte

        configs.append(SpaceByteConfig(segmenter=RulePatches("mine")))
        model = configs[-1].segmenter.build(2, NEEDS["ends"], norm=None, relu=False, rngs=None)
        np.testing.assert_array_equal(run(model, ids, one)[0].hard, ids == byte)
        np.testing.assert_array_equal(find_edges("mine", ids, one)[0].ends, ids == byte)
    old, new = configs
    assert old != new and abstract_model(old)[0] != abstract_model(new)[0]
    assert new == SpaceByteConfig(segmenter=RulePatches("mine"))


def test_a_rule_of_ones_own(own_rules):
    @rule("commas", marks="end")
    def commas(symbols):
        return symbols[0] == ord(",")

    with pytest.raises(UserError, match="a boundary rule 'commas' already"):
        rule("commas", marks="end")(len)
    config = RulePatches("commas")
    found = config.build(WIDTH, NEEDS["ends"], norm=None, relu=False, rngs=nnx.Rngs(0))
    ids = np.array([[START, *b"a,bc,,d"]], np.int32)
    boundaries, _ = found(None, ids, np.ones_like(ids))
    np.testing.assert_array_equal(boundaries.hard[0], ids[0] == ord(","))

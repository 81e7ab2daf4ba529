"""Draft heads: golden vectors and their decoding, training, cost and bad options."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import UNSCORED
from bytelm.models import Batch
from bytelm.models.draft import BlockDraft, ChainDraft, Item, LinearDraft
from bytelm.models.drafting import DraftingModel
from bytelm.models.parameters import abstract_model, count_frozen, count_parameters, roles_of
from bytelm.nn.mesh import MeshConfig, parameter_shardings, place_batch, single_device_mesh
from bytelm.nn.roles import trained
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program
from tests.models import golden_mtp
from tests.models.compiled import ROWS, first_state, random_rows, split_model
from tests.models.draft_logits import KINDS, stacked_logits, vectors_of
from tests.models.families import FAMILIES, small, spacebyte
from tests.models.golden import GRADIENTS, LOGITS, cases, load
from tests.models.test_flops import matmul_flops


@pytest.fixture(scope="module", params=cases("mtp", lambda names: "in.targets" in names))
def heads(request):
    """A case of heads, and what our model makes of it."""
    case = load(request.param)
    config = golden_mtp.model_config(case)
    graphdef, state = abstract_model(config)
    tokens, targets = (case.input[name] for name in ("tokens", "targets"))
    size, count = targets.shape[1:]
    # Rows that hold all the targets: head i predicts symbol t + i for t below `size`.
    row = np.concatenate([tokens, targets[:, -1, :-1]], axis=1)
    following = golden_mtp.ours(np.concatenate([targets[:, :, 0], targets[:, -1, 1:]], 1), config)
    whole = Batch(row, following, np.ones_like(row))
    ahead = np.moveaxis(golden_mtp.ours(targets, config), 2, 0)
    ahead = np.pad(ahead, ((0, 0), (0, 0), (0, count - 1)), constant_values=UNSCORED)
    assert (ahead[0, :, :size] == following[:, :size]).all()

    def loss(param):
        params = golden_mtp.parameters(dataclasses.replace(case, param=param), config)
        model = nnx.merge(graphdef, params)
        output, x = vectors_of(model, whole)
        logits = stacked_logits(model, x, whole, ahead[1:])
        logits = jnp.concatenate([output.logits[None], logits])[:, :, :size]
        items = Item(ahead[1:], ahead[1:], None)
        z = model.read_by_heads(x)
        nats, _ = model.draft.score(model, z, whole.document_ids, items)
        nats = jnp.concatenate([output.nats(ahead[0])[None], nats])[:, :, :size]
        return nats.mean(axis=(1, 2)).sum(), (golden_mtp.theirs(logits), nats, z[:, :size])

    shapes = jax.eval_shape(
        lambda p: golden_mtp.parameters(dataclasses.replace(case, param=p), config), case.param
    )
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    (total, found), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(case.param)

    inside = np.where(np.arange(size) < size - 1, following[:, :size], UNSCORED)
    of_row = Batch(tokens, inside.astype(np.int32), np.ones_like(tokens))
    params = golden_mtp.parameters(case, config)
    output = jax.jit(lambda p: nnx.merge(graphdef, p)(of_row))(params)
    return case, total, *found, grad, output, inside


def test_heads_are_the_golden_ones(heads):
    case, total, logits, nats, z, *_ = heads
    np.testing.assert_allclose(np.moveaxis(logits, 0, 2), case.out["logits"], atol=LOGITS)
    np.testing.assert_allclose(nats.mean(axis=(1, 2)), case.out["loss_per_head"], atol=LOGITS)
    np.testing.assert_allclose(total, case.out["loss"], atol=LOGITS)
    if "loss_per_token" in case.out:
        np.testing.assert_allclose(np.moveaxis(nats, 0, 2), case.out["loss_per_token"], atol=LOGITS)
        np.testing.assert_allclose(z, case.out["h_trunk"], atol=LOGITS)


def test_gradients_of_all_heads_are_the_golden_ones(heads):
    case, grad = heads[0], heads[5]
    for name, wanted in case.grad.items():
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(grad[name] / scale, wanted / scale, atol=GRADIENTS, err_msg=name)


def test_losses_inside_a_row_are_the_golden_ones(heads):
    """By the model's own losses: targets after the row do not count, and the sum is normed."""
    case, output, inside = heads[0], heads[6], heads[7]
    bits = next(r for r in output.statistics if r.statistic.name == "draft/bits")
    scored = (inside != UNSCORED).sum()
    np.testing.assert_allclose(
        output.auxiliary_losses["draft"], bits.total.sum() / scored, rtol=1e-5
    )
    if "loss_inside" not in case.out:
        return
    main = output.nats(inside).sum() / scored
    each = np.concatenate([[main], bits.total / bits.count])
    np.testing.assert_allclose(each, case.out["loss_per_head_inside"], atol=LOGITS)
    np.testing.assert_allclose(each.sum(), case.out["loss_inside"], atol=LOGITS)


@pytest.mark.parametrize("path", cases("mtp", lambda names: "cfg.max_new_tokens" in names))
def test_golden_decoding_by_heads(path):
    """One pass verifies the drafts of the heads, and the same pass gives the next ones."""
    case = load(path)
    config = golden_mtp.model_config(case)
    graphdef, _ = abstract_model(config)
    params, wanted, count = (
        golden_mtp.parameters(case, config),
        case.cfg["max_new_tokens"],
        config.draft.heads,
    )
    prompts = [case.input[f"p{number}.prompt"] for number in range(case.cfg["n_prompts"])]
    longest = max(map(len, prompts))

    def best(logits, index=0):
        return jnp.argmax(golden_mtp.theirs(logits), axis=-1).astype(jnp.int32)

    @jax.jit
    def start(prompt, length):
        model = nnx.merge(graphdef, params)
        state = model.init_drafting(1, longest + wanted + 2 * count)
        logits, state = model.extend(prompt, state, length)
        return best(logits)[:, length[0] - 1], state

    @jax.jit
    def draft(state, pending):
        drafts = nnx.merge(graphdef, params).draft_symbols(state, pending, count - 1, best)
        return jnp.concatenate([pending[:, None], drafts], axis=1)

    @jax.jit
    def verify(state, proposals):
        model = nnx.merge(graphdef, params)
        logits, read = model.verify(proposals, state, jnp.full(1, count))
        verified = best(logits)
        right = jnp.cumprod(proposals[:, 1:] == verified[:, :-1], axis=1).sum(axis=1)
        return verified, right + 1, model.keep(read, right + 1)

    for number, prompt in enumerate(prompts):
        row = np.pad(prompt, (0, longest - len(prompt)))[None].astype(np.int32)
        pending, state = start(row, jnp.array([len(prompt)]))
        tokens, found = [], {"proposals": [], "verified": [], "accepted": []}
        while len(tokens) < wanted:
            proposals = draft(state, pending)
            verified, accepted, state = verify(state, proposals)
            pending = verified[0, accepted - 1]
            tokens += proposals[0, : accepted[0]].tolist()
            steps = {"proposals": proposals[0], "verified": verified[0], "accepted": accepted[0]}
            for name, value in steps.items():
                found[name].append(np.asarray(value))
        found["tokens"] = tokens
        for name, values in found.items():
            np.testing.assert_array_equal(np.stack(values), case.out[f"p{number}.{name}"], name)
        np.testing.assert_array_equal(tokens[:wanted], case.out[f"p{number}.greedy"])


@pytest.mark.parametrize("path", cases("evabyte", lambda names: "grad.lm_head.weight" in names))
def test_heads_of_evabyte(path):
    """Its heads alone, on the golden states: its attention is no family of ours (yet)."""
    case = load(path)
    hidden, targets = case.out["hidden"], case.input["targets"]
    count, outputs = targets.shape[2], case.out["logits"].shape[-1]

    class Plain(DraftingModel):
        def unembed(self, x, kernel=None):
            return x @ kernel

    def loss(weight):
        kernels = weight.reshape(count, outputs, -1).swapaxes(1, 2)  # row h x 320 + v: head h
        config = small(width=hidden.shape[-1], draft=LinearDraft(count + 1), vocabulary=outputs - 1)
        draft = LinearDraft(count + 1).build(config, nnx.Rngs(0))
        draft.stack.blocks.kernel[...] = kernels
        model = Plain()
        model.draft = draft
        ones = np.ones(targets.shape[:2], np.int32)
        ahead = np.moveaxis(targets, 2, 0)
        nats, _ = draft.score(model, hidden, ones, Item(ahead, ahead, None))
        batch = Batch(ones, ones, ones)
        return nats.mean(axis=(1, 2)).sum(), (nats, stacked_logits(model, hidden, batch, ahead))

    (total, (nats, logits)), grad = jax.value_and_grad(loss, has_aux=True)(
        jnp.asarray(case.param["lm_head.weight"])
    )
    np.testing.assert_allclose(np.moveaxis(logits, 0, 2), case.out["logits"], atol=LOGITS)
    np.testing.assert_allclose(np.moveaxis(nats, 0, 2), case.out["loss_per_token"], atol=LOGITS)
    np.testing.assert_allclose(nats.mean(axis=(1, 2)), case.out["loss_per_head"], atol=LOGITS)
    np.testing.assert_allclose(total, case.out["loss_sum"], rtol=1e-5)
    # Their gradients are those of the mean over heads; ours, of the sum, are n times as large.
    rows = grad.reshape(count, outputs, -1)[np.asarray(case.cfg["grad_heads"])] / count
    wanted = case.grad["lm_head.weight"]
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(rows.reshape(wanted.shape) / scale, wanted / scale, atol=GRADIENTS)


def test_no_heads_change_nothing_and_heads_do_not_change_the_model():
    plain, with_heads = small(), small(draft=ChainDraft(3))
    for name, wanted in flat_of(plain).items():
        np.testing.assert_array_equal(flat_of(with_heads)[name], wanted, err_msg=name)
    assert not any(name.startswith("draft") for name in flat_of(plain))


@functools.cache
def flat_of(config):
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(config.build(nnx.Rngs(3)))))
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def test_heads_alone_are_trained():
    heads = spacebyte(draft=LinearDraft(4, train_model=False))
    roles = roles_of(heads)
    named = {name for name, leaf in jax.tree.leaves_with_path(trained(roles, roles)) if leaf}
    assert {path[0].key for path in named} == {"draft"}
    whole, alone = count_parameters(spacebyte()), count_parameters(heads)
    assert alone[0] == 3 * 16 * 257 and count_frozen(heads) == whole[0]
    for patches in (None, 3.0):
        assert heads.frozen_flops(32, patches) == spacebyte().forward_flops(32, patches)


def losses_of(config):
    """(params, batch) -> the main loss plus the heads', per symbol, and the gradients."""
    graphdef, _ = split_model(config)

    def loss(params, batch):
        output = nnx.merge(graphdef, params)(batch)
        return output.nats(batch.targets).mean() + output.auxiliary_losses["draft"]

    return jax.value_and_grad(loss)


@pytest.mark.parametrize("draft", [LinearDraft(3), BlockDraft(3)], ids=["linear", "block"])
def test_heads_sharded_over_every_mesh_axis_are_those_of_one_device(draft, monkeypatch):
    monkeypatch.setattr("bytelm.nn.mesh.SMALLEST_SHARDED", 1)
    config = small(depth=1, draft=draft)
    batch, params = random_rows(25), split_model(config)[1]
    batch = dataclasses.replace(batch, keys=np.ones((ROWS, 2), np.uint32))
    wanted = jax.device_get(jax.jit(losses_of(config))(params, batch))
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    placed = jax.device_put(params, parameter_shardings(abstract_model(config)[1], mesh))
    assert any(len(leaf.sharding.spec) for leaf in jax.tree.leaves(placed["draft"]))
    with jax.set_mesh(mesh):
        got = jax.jit(losses_of(config))(placed, place_batch(batch, mesh))
    for path, leaf in jax.tree.leaves_with_path(wanted):
        value = dict(jax.tree.leaves_with_path(got))[path]
        scale = max(np.abs(leaf).max(), 1e-2)
        np.testing.assert_allclose(value / scale, leaf / scale, atol=2e-4, err_msg=str(path))


@pytest.mark.parametrize("draft", KINDS.values(), ids=KINDS.keys())
def test_flops_of_heads_are_those_of_the_traced_matrix_products(draft):
    def products(config):
        graphdef, state = abstract_model(config)
        row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        batch = Batch(row, row, row, keys=jax.ShapeDtypeStruct((1, 2), jnp.uint32))

        def run(params, batch):
            output = nnx.merge(graphdef, params)(batch)
            return output.logits, output.auxiliary_losses

        return matmul_flops(jax.jit(run).trace(nnx.to_pure_dict(state), batch).jaxpr)

    config = small(draft=draft)
    added = products(config) - products(small())
    assert added == config.draft_flops(1) > 0 == small().draft_flops(1)
    assert config.forward_flops(9) == small().forward_flops(9)  # the likelihood needs no heads


def test_a_step_changes_nothing_but_the_heads_where_all_else_is_frozen():
    config, mesh = small(depth=1, draft=LinearDraft(3, train_model=False)), single_device_mesh()
    optimizer = AdamW(warmup=0.0).build(4, roles_of(config))
    program = train_program(config, optimizer, mesh, 1)
    with jax.set_mesh(mesh):
        start = first_state(program, split_model(config)[1])
        before = jax.device_get(start.params)
        state, _ = program.train(start, place_batch(random_rows(26), mesh))
    after = jax.device_get(state.params)
    assert np.abs(after.pop("draft")["stack"]["blocks"]["kernel"]).min(axis=(1, 2)).all()
    del before["draft"]
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: LinearDraft(1), "model.draft.heads is 1; it must be from 2 to 64"),
        (lambda: LinearDraft(65), "model.draft.heads is 65; it must be from 2 to 64"),
        (lambda: ChainDraft(4, weights=(1.0,)), "has 1 values, and there are 3 heads after"),
        (lambda: ChainDraft(2, weights=(-1.0,)), "none may be below 0"),
        (lambda: spacebyte(draft=BlockDraft(shortened=True)), "needs a flat family, and spacebyte"),
    ],
)
def test_bad_heads_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_a_block_narrower_than_a_head_is_refused():
    config = dataclasses.replace(FAMILIES["mamba"], head_width=32, draft=BlockDraft())
    with pytest.raises(UserError, match="less than one head of model"):
        config.build(nnx.Rngs(0))


def test_the_logits_of_one_head_exist_at_a_time():
    def temporary(heads):
        config = small(depth=1, vocabulary=1900, draft=LinearDraft(heads))
        graphdef, state = abstract_model(config)
        row = jax.ShapeDtypeStruct((4, 64), jnp.int32)
        batch = Batch(row, row, row, keys=jax.ShapeDtypeStruct((4, 2), jnp.uint32))

        def loss(params, batch):
            output = nnx.merge(graphdef, params)(batch)
            return output.nats(batch.targets).mean() + output.auxiliary_losses["draft"]

        compiled = jax.jit(jax.grad(loss)).lower(nnx.to_pure_dict(state), batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits, kernel = 4 * 64 * 1901 * 4, 32 * 1901 * 4
    # Six heads more: their gradients, not their logits.
    assert temporary(8) - temporary(2) < 6 * 2 * kernel + logits < 6 * logits

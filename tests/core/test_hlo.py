"""The text form of compiled programs, and what their instructions cost."""

import jax
import jax.numpy as jnp
import pytest

from bytelm.core.hlo import Shape, parse
from bytelm.core.hlo_costs import PAIRS, Exchange, exchanges, works

TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%counted (param_0.2: s32[], param_1.2: s32[]) -> s32[] {
  %param_0.2 = s32[] parameter(0)
  %param_1.2 = s32[] parameter(1)
  ROOT %sum.2 = s32[] add(%param_0.2, %param_1.2)
}

%fused (param_0: f32[4,8,16], param_1: s32[]) -> f32[8,16] {
  %param_0 = f32[4,8,16]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  ROOT %cut = f32[1,8,16]{2,1,0} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,8,16}
}

%all-reduce-scatter.1 (param_0.1: f32[64,16]) -> f32[8,16] {
  %param_0.1 = f32[64,16]{1,0:T(8,128)} parameter(0)
  %sum = f32[64,16]{1,0:T(8,128)} all-reduce(%param_0.1), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %own = f32[8,16]{1,0:T(8,128)} dynamic-slice(%sum, %sum), dynamic_slice_sizes={8,16}
}

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %state = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %j = s32[] fusion(%i, %two), kind=kLoop, calls=%counted
  %two = s32[] constant(2)
  %x = f32[8,16]{1,0} get-tuple-element(%state), index=1
  %weights = f32[4,8,16]{2,1,0} constant({...})
  %layer = f32[1,8,16]{2,1,0} fusion(%weights, %i), kind=kLoop, calls=%fused
  %flat = f32[8,16]{1,0} bitcast(%layer)
  %whole = f32[16,16]{0,1} all-gather(%flat), replica_groups=[4,2]<=[2,4]T(1,0)
  %y = f32[8,16]{1,0} dot(%x, %whole), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%j, %y)
}

%condition (state.1: (s32[], f32[8,16])) -> pred[] {
  %state.1 = (s32[], f32[8,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(8)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (p: f32[8,16]) -> f32[] {
  %p = f32[8,16]{1,0} parameter(0), metadata={op_name="state(params)"}
  %zero = s32[] constant(0)
  %first = (s32[], f32[8,16]{1,0}) tuple(%zero, %p)
  %loop = (s32[], /*index=1*/f32[8,16]{1,0}) while(%first), condition=%condition, body=%body
  %last = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%loop), index=1
  %start = f32[8,16]{1,0} all-reduce-start(%p), replica_groups={{0,1,2,3},{4,5,6,7}}
  %done = f32[8,16]{1,0} all-reduce-done(%start)
  %moved = f32[8,16]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
  %alone = f32[8,16]{1,0} all-reduce(%p), replica_groups={{0},{1}}
  %big = f32[64,16]{1,0} broadcast(%p), dimensions={0,1}
  %part = f32[8,16]{1,0} fusion(%big), kind=kCustom, calls=%all-reduce-scatter.1
  %near = f32[8,16]{1,0:S(1)} copy(%p)
  ROOT %conv = f32[8,32]{1,0} convolution(%p, %kernel), dim_labels=bf_io->bf
  %kernel = f32[16,32]{1,0} constant({...})
}
"""


@pytest.fixture(scope="module")
def program():
    return parse(TEXT)


def test_shapes_have_bytes():
    assert Shape("bf16", (4, 2)).bytes == 16
    assert Shape("pred", (3,)).bytes == 3
    assert Shape("s4", (4,)).bytes == 2
    assert Shape("f8e4m3fn", (4,)).bytes == 4
    assert Shape("f32", ()).bytes == 4


def test_instructions_and_how_often_they_run(program):
    assert (program.entry, program.devices) == ("main", 8)
    times = {run.instruction.name: run.times for run in program.runs()}
    assert times["p"] == 1 and times["y"] == 4 and times["cut"] == 4
    loop = program.computations["main"]["loop"]
    assert loop.shapes == (Shape("s32", ()), Shape("f32", (8, 16)))
    assert program.computations["main"]["last"].shapes[0].is_near


def test_what_devices_send(program):
    array = 8 * 16 * 4
    assert list(exchanges(program)) == [
        Exchange("all-gather", "f32", 2 * array, (0, 4), 4, True),
        Exchange("all-reduce", "f32", array, (0, 1, 2, 3), 1, False),
        Exchange("collective-permute", "f32", array, (0, 1), 1, False),
        Exchange("reduce-scatter", "f32", 8 * array, tuple(range(8)), 1, False),
    ]
    gather, reduce, move, scatter = exchanges(program)
    assert (gather.sent, reduce.sent) == (array, 1.5 * array)
    assert (move.sent, scatter.sent) == (array, 7 * array)


def test_groups_along_axes_of_a_mesh(program):
    def group(text):
        line = f"  %x = f32[2] all-reduce(%y), replica_groups={text}, to_apply=%add"
        text = f"HloModule m, num_partitions=8\n\nENTRY %main () -> f32[2] {{\n{line}\n}}\n"
        found = parse(text)
        return found.group(found.computations["main"]["x"])

    assert group("mesh['a'=2,'b'=2,'c'=2] {'a','c'}") == [0, 1, 4, 5]
    assert group("mesh['a'=8] {'a':(1)4}") == [0, 2, 4, 6]
    assert group("mesh['a'=8] {'a':(4)2}") == [0, 1]
    assert group("[2,4]<=[8]") == [0, 1, 2, 3]
    assert group("{}") == list(range(8))


def test_work_of_each_instruction(program):
    array = 8 * 16 * 4
    found = [(work.flops, work.bytes, times) for work, times in works(program)][1:]
    layer, product = found[0], found[1]
    assert layer == (0, 2 * array + 4, 4), "only the part that is cut out is read"
    assert product == (2 * 8 * 16 * 16, 2 * array + 16 * 16 * 4, 4)
    assert found[-2] == (0, array, 1), "what lies on the chip is no traffic"
    assert found[-1][0] == 2 * 8 * 16 * 32


def test_convolutions_count_the_pairs_that_meet():
    batched = (
        "convolution(%x, %k), window={size=4x6 stride=3x5 lhs_dilate=4x6}, "
        "dim_labels=01bf_01oi->01bf"
    )
    text = f"""\
HloModule m

ENTRY %main () -> f32[4,6,2,5] {{
  %x = f32[4,6,2,3]{{3,2,1,0}} parameter(0)
  %k = f32[4,6,5,3]{{3,2,1,0}} parameter(1)
  ROOT %y = f32[4,6,2,5]{{3,2,1,0}} {batched}
}}
"""
    # A product of matrices for each of 4 x 6 batches, as XLA writes it for TPUs.
    ((work, _),) = works(parse(text))
    assert work.flops == 4 * 6 * 2 * 2 * 5 * 3


def test_kernels_of_attention_say_what_they_compute():
    queries, keys = "bf16[2,4,64,8]{3,2,1,0}", "bf16[2,1,64,8]{3,2,1,0}"
    call = (
        f"  %c = ({keys}, f32[2,4,64]{{2,1,0}}) custom-call(%q, %k), frontend_attributes={{{{\n"
        '"block_q_dkv": 512\n}}, metadata={op_name="a/SCOPE/jit(b)/splash_mha_PART"}'
    )
    for part, products in {"fwd_residuals": 2, "dq": 3, "dkv": 4}.items():
        line = call.replace("SCOPE", f"{PAIRS}100").replace("PART", part)
        given = f"  %q = {queries} parameter(0)\n  %k = {keys} parameter(1)"
        text = f"HloModule m\n\nENTRY %main () -> f32[] {{\n{given}\n{line}\n}}\n"
        ((work, _),) = works(parse(text))
        assert work.flops == 2 * products * 100 * 2 * 4 * 8


def test_a_program_of_this_machine():
    def layer(x, kernel):
        return jnp.tanh(x @ kernel), None

    def function(x, kernels):
        return jax.lax.scan(layer, x, kernels)[0]

    shapes = jnp.ones((8, 32)), jnp.ones((5, 32, 32))
    found = parse(jax.jit(function).lower(*shapes).compile().as_text())
    assert sum(work.flops * times for work, times in works(found)) == 5 * 2 * 8 * 32 * 32

"""Costs read from HLO: of programs compiled here for eight CPU devices, and of lines in the forms of TPU and GPU."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from llama3_jax.plan.hlo import Collective, program_costs

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.fixture
def mesh():
    return jax.make_mesh(tuple(SIZES.values()), tuple(SIZES), axis_types=(AxisType.Auto,) * 3)


def text_of(function, *arrays) -> str:
    return jax.jit(function).lower(*arrays).compile().as_text()


def array(mesh, spec, *shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))


def mapped(mesh, function, spec, out):
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)


def test_flops_of_nested_loops(mesh):
    """5 x 3 products of [4, 64] by [64, 64], rows split over data and fsdp: 2·4·64·64 FLOPs each."""

    def outer(x, w):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x), None

    def program(x, ws):
        return jax.lax.scan(outer, x, ws)[0]

    text = text_of(program, array(mesh, P(("data", "fsdp")), 16, 64), array(mesh, P(), 5, 64, 64))
    costs = program_costs(text, SIZES)
    assert costs.matmul_flops == 5 * 3 * 2 * 4 * 64 * 64
    assert costs.unknown_loops == 0 and not costs.collectives


def test_flops_of_a_batched_product_over_two_dims():
    text = text_of(functools.partial(jnp.einsum, "abcd,acde->abe"), jnp.ones((3, 4, 5, 6)), jnp.ones((3, 5, 6, 7)))
    assert program_costs(text, {}).matmul_flops == 2 * 3 * 4 * 7 * 5 * 6


COLLECTIVES = {
    "all-gather": (lambda x, axis: jax.lax.all_gather(x, axis, tiled=True), 2),
    "all-reduce": (jax.lax.psum, 1),
    "reduce-scatter": (lambda x, axis: jax.lax.psum_scatter(x, axis, tiled=True), 1),
    "all-to-all": (lambda x, axis: jax.lax.all_to_all(x, axis, 0, 1, tiled=True), 1),
    "collective-permute": (lambda x, axis: jax.lax.ppermute(x, axis, [(0, 1), (1, 0)]), 1),
}


@pytest.mark.parametrize("axis", SIZES)
@pytest.mark.parametrize("kind", COLLECTIVES)
def test_a_collective_in_a_loop_is_counted_by_axis(mesh, kind, axis):
    """Four turns of one collective on [8, 6] float32 per device: bytes of the whole array, times the turns."""
    run, growth = COLLECTIVES[kind]

    def program(x):
        def turn(total, _):
            return total + run(x + total, axis).sum(), None

        return jax.lax.scan(turn, 0.0, None, length=4)[0]

    text = text_of(mapped(mesh, program, P(tuple(SIZES)), P()), array(mesh, P(tuple(SIZES)), 64, 6))
    found = program_costs(text, SIZES).collectives
    assert {(key.kind, key.axis, key.group_size) for key in found} == {(kind, axis, 2)}
    count, num_bytes = map(sum, zip(*found.values(), strict=True))
    assert (count, num_bytes) == (4, 4 * 8 * 6 * 4 * growth)


def test_a_sum_over_two_axes(mesh):
    program = mapped(mesh, lambda x: jax.lax.psum(x, ("data", "tensor")), P(tuple(SIZES)), P("fsdp"))
    found = program_costs(text_of(program, array(mesh, P(tuple(SIZES)), 8, 4)), SIZES).collectives
    assert found == {Collective("all-reduce", "data+tensor", 4, exposed=True): (1, 16)}


TPU = """\
HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input.1: bf16[8,64]) -> bf16[4,64] {
  %input.1 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[8,64]{1,0:T(8,128)(2,1)} all-reduce(%input.1), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  %constant.1 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.1 = bf16[4,64]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.1, %constant.1, %constant.1), dynamic_slice_sizes={4,64}
}

%fused (p.0: bf16[8,16], p.1: bf16[16,64]) -> bf16[8,64] {
  %p.0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,64]{1,0:T(8,128)(2,1)} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}

%body (state: (s32[], bf16[8,16], bf16[16,64], bf16[1,4,128,32])) -> (s32[], bf16[8,16], bf16[16,64], bf16[1,4,128,32]) {
  %state = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[16,64]{1,0}, bf16[1,4,128,32]{3,2,1,0}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state), index=0
  %one = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%turn, %one)
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %w = bf16[16,64]{1,0} get-tuple-element(%state), index=2
  %q = bf16[1,4,128,32]{3,2,1,0} get-tuple-element(%state), index=3
  %k = bf16[1,2,256,32]{3,2,1,0} broadcast(%x), dimensions={}, backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
  %fusion.1 = bf16[8,64]{1,0:T(8,128)(2,1)} fusion(%x, %w), kind=kOutput, calls=%fused, backend_config={"window_config":{"estimated_cycles":"1000","iteration_bounds":["1"]}}
  %copy.1 = bf16[8,64]{0,1:T(8,128)(2,1)} copy(%fusion.1), backend_config={"window_config":{"estimated_cycles":"30"}}
  %fusion.2 = bf16[4,64]{1,0:T(8,128)(2,1)} fusion(%copy.1), kind=kCustom, calls=%all-reduce-scatter.1
  %kernel = bf16[1,4,128,32]{3,2,1,0} custom-call(%q, %k, %k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128}"
}}, metadata={op_name="splash"}
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,64]{1,0}, bf16[1,4,128,32]{3,2,1,0}) tuple(%next, %x, %w, %kernel)
}

%condition (state.1: (s32[], bf16[8,16], bf16[16,64], bf16[1,4,128,32])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[16,64]{1,0}, bf16[1,4,128,32]{3,2,1,0}) parameter(0)
  %turn.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %bound = s32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%turn.1, %bound), direction=LT
}

ENTRY %main (a: bf16[8,16], b: bf16[16,64], q.1: bf16[1,4,128,32]) -> bf16[8,16] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,64]{1,0} parameter(1)
  %q.1 = bf16[1,4,128,32]{3,2,1,0} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %permute = (bf16[8,16]{1,0}, bf16[8,16]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%a), source_target_pairs={{0,2},{2,0},{1,3},{3,1}}
  %done = bf16[8,16]{1,0} collective-permute-done(%permute)
  %state.2 = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,64]{1,0}, bf16[1,4,128,32]{3,2,1,0}) tuple(%start, %done, %b, %q.1)
  %loop = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,64]{1,0}, bf16[1,4,128,32]{3,2,1,0}) while(%state.2), condition=%condition, body=%body
  ROOT %out = bf16[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_a_tpu_program():
    """From 0 to 12 in steps of 2 is six turns of a fused convolution, a copy, a fused reduce-scatter and a kernel."""
    costs = program_costs(TPU, {"fsdp": 2, "tensor": 2})
    assert costs.unknown_loops == 0
    assert costs.matmul_flops == 6 * 2 * 8 * 16 * 64
    assert costs.cycles == {"matmul": 6 * 1000, "other": 6 * 30}
    assert costs.attention == {"forward": (6, 6 * 2 * 4 * 128 * 256 * 32)}  # 4·H·S·T·E, halved
    assert costs.collectives == {
        Collective("collective-permute", "fsdp", 2, exposed=False): (1, 8 * 16 * 2),
        Collective("reduce-scatter", "tensor", 2, exposed=True): (6, 6 * 8 * 64 * 2),
    }


def test_attention_of_one_row_may_have_lost_its_batch_dim():
    text = TPU.replace("[1,4,128,32]{3,2,1,0}", "[4,128,32]{2,1,0}").replace(
        "[1,2,256,32]{3,2,1,0}", "[2,256,32]{2,1,0}"
    )
    assert program_costs(text, {"fsdp": 2, "tensor": 2}).attention == {"forward": (6, 6 * 2 * 4 * 128 * 256 * 32)}


def test_a_loop_whose_end_is_data_counts_once_and_is_told():
    text = TPU.replace(
        "%bound = s32[]{:T(128)} constant(12)", "%bound = s32[]{:T(128)} get-tuple-element(%state.1), index=0"
    )
    costs = program_costs(text, {"fsdp": 2, "tensor": 2})
    assert costs.unknown_loops == 1 and costs.matmul_flops == 2 * 8 * 16 * 64


@pytest.mark.parametrize("inside", ["%limit = s32[] constant(12)", "%limit = s32[] parameter(1)"])
def test_a_comparison_inside_a_fusion_is_read(inside):
    plain = "ROOT %less = pred[]{:T(512)} compare(%turn.1, %bound), direction=LT"
    fused = f"""\
%compared (count: s32[], limit: s32[]) -> pred[] {{
  %count = s32[] parameter(0)
  {inside}
  ROOT %under = pred[] compare(%count, %limit), direction=LT
}}

%condition ("""
    text = TPU.replace(plain, "ROOT %less = pred[] fusion(%turn.1, %bound), kind=kLoop, calls=%compared")
    costs = program_costs(text.replace("%condition (", fused), {"fsdp": 2, "tensor": 2})
    assert costs.unknown_loops == 0 and costs.matmul_flops == 6 * 2 * 8 * 16 * 64


GPU = """\
HloModule jit_step

%async (p: f32[4,8]) -> f32[8,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %all-gather.1 = f32[8,8]{1,0} all-gather(%p), replica_groups=[2,2]<=[4], dimensions={0}
}

%left (l: f32[8,8]) -> f32[8,8] {
  %l = f32[8,8]{1,0} parameter(0)
  ROOT %dot.1 = f32[8,8]{1,0} dot(%l, %l), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%right (r: f32[8,8]) -> f32[8,8] {
  ROOT %r = f32[8,8]{1,0} parameter(0)
}

ENTRY %main (a: f32[4,8], which: s32[]) -> f32[8,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %which = s32[] parameter(1)
  %start = ((f32[4,8]{1,0}), f32[8,8]{1,0}) async-start(%a), calls=%async
  %gathered = f32[8,8]{1,0} async-done(%start)
  %reduce = f32[4,8]{1,0} all-reduce-start(%a), replica_groups={{0,2},{1,3}}, to_apply=%add, backend_config={"collective_backend_config":{"is_sync":true}}
  %reduced = f32[4,8]{1,0} all-reduce-done(%reduce)
  %gemm = (f32[4,6]{1,0}, s8[64]{0}) custom-call(%a, %a), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  ROOT %chosen = f32[8,8]{1,0} conditional(%which, %gathered, %gathered), branch_computations={%left, %right}
}
"""  # noqa: E501


def test_a_gpu_program():
    """Asynchronous collectives overlap unless marked synchronous; a conditional costs its dearest branch."""
    costs = program_costs(GPU, {"fsdp": 2, "tensor": 2})
    assert costs.matmul_flops == 2 * 4 * 6 * 8 + 2 * 8 * 8 * 8
    assert costs.collectives == {
        Collective("all-gather", "tensor", 2, exposed=False): (1, 8 * 8 * 4),
        Collective("all-reduce", "fsdp", 2, exposed=True): (1, 4 * 8 * 4),
    }


@pytest.mark.parametrize(
    ("window", "labels", "left", "right", "out", "flops"),
    [
        ("size=3 pad=1_1", "b0f_0io->b0f", "2,8,4", "3,4,5", "2,8,5", 2 * 2 * 4 * 5 * (8 * 3 - 2)),
        # Eight products of [1, 16] by [16, 32] as XLA writes a batch: one tap of each place falls on a real input.
        ("size=8 stride=7 lhs_dilate=8", "0bf_0io->0bf", "8,1,16", "8,16,32", "8,1,32", 2 * 8 * 16 * 32),
    ],
)
def test_a_convolution_counts_real_taps_only(window, labels, left, right, out, flops):
    text = f"""\
HloModule m

ENTRY %main (a: bf16[{left}], b: bf16[{right}]) -> bf16[{out}] {{
  %a = bf16[{left}]{{2,1,0}} parameter(0)
  %b = bf16[{right}]{{2,1,0}} parameter(1)
  ROOT %c = bf16[{out}]{{2,1,0}} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    assert program_costs(text, {}).matmul_flops == flops


def test_text_that_is_not_hlo_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        program_costs("hello", {})

"""What attention refuses, which blocks it visits, and how it behaves inside larger programs: memory, vmap, meshes."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from llama3_jax.ops.attention import IMPLEMENTATIONS, AttentionMask, attention, default_implementation
from llama3_jax.ops.attention_mask import visible
from llama3_jax.ops.kernels.block_schedule import block_bounds, seen_blocks
from llama3_jax.ops.kernels.chunked import RESIDUAL_NAME, default_blocks
from llama3_jax.ops.kernels.flash_gpu import MOSAIC_AVAILABLE, key_ranges
from tests.ahead_of_time import devices_of
from tests.ops.attention_cases import (
    CHUNKED_MASKS,
    PACKED_300,
    assert_close,
    forward_and_backward,
    ids,
    make_inputs,
    run,
)

BATCH_1 = {"query_segment_ids_BS": jnp.ones((1, 256), jnp.int32)}
PLACES = jnp.arange(256, dtype=jnp.int32)[None]
REFUSALS = [  # implementation, S, T, E, mask, what the sentence must say
    ("flash", 256, 256, 16, {}, "is not one of reference, chunked"),
    ("splash", 256, 256, 16, {"key_index_BT": PLACES}, 'cannot honour key_index_BT.*or use "chunked"'),
    ("splash", 200, 256, 16, {}, 'multiples of 128, not 200.*"chunked"'),
    ("triton", 256, 256, 16, {"query_index_BS": PLACES}, 'no query_index_BS.*"chunked"'),
    ("triton", 256, 256, 16, BATCH_1 | {"key_segment_ids_BT": PLACES}, 'leave key_segment_ids_BT out.*"chunked"'),
    ("triton", 128, 256, 16, {}, '128 queries and 256 keys.*"chunked"'),
    ("triton", 200, 200, 16, {}, 'a multiple of 128.*"chunked"'),
    ("triton", 256, 256, 24, {}, 'not 24; use "chunked"'),
    ("chunked", 256, 256, 16, {"query_segment_ids_BS": PLACES[:, 1:]}, r"query_segment_ids_BS has shape \(1, 255\)"),
    ("chunked", 256, 256, 16, {"query_index_BS": PLACES * 1.0}, "query_index_BS must be of an integer type"),
    ("chunked", 256, 256, 16, {"key_segment_ids_BT": PLACES}, "needs query_segment_ids_BS"),
    ("chunked", 256, 128, 16, BATCH_1, "only for self-attention"),
]


@pytest.mark.parametrize(("implementation", "queries", "keys", "size", "fields", "words"), REFUSALS)
def test_refusals(implementation, queries, keys, size, fields, words):
    q, k, v, _ = make_inputs(1, queries, keys, 2, 1, size)
    with pytest.raises(ValueError, match=words):
        attention(q, k, v, AttentionMask(**fields), implementation=implementation, interpret=True)


def test_shape_errors():
    q, k, v, _ = make_inputs(1, 8, 8, 4, 2, 8)
    call = functools.partial(attention, mask=AttentionMask(), implementation="chunked")
    with pytest.raises(ValueError, match="not a multiple of 3 kv heads"):
        call(q, *[jnp.concatenate([x, x[:, :, :1]], axis=2) for x in (k, v)])
    with pytest.raises(ValueError, match="differ in batch or head size"):
        call(q[..., :4], k, v)
    with pytest.raises(ValueError, match="takes q"):
        call(q, k, v[:, :4])


def test_mosaic_refusals():
    q, k, v, _ = make_inputs(1, 128, 128, 2, 1, 64, jnp.bfloat16)
    words = "cannot be interpreted" if MOSAIC_AVAILABLE else 'needs tokamax.*use "triton"'
    with pytest.raises(ValueError, match=words):
        attention(q, k, v, AttentionMask(), implementation="mosaic", interpret=True)
    with pytest.raises(ValueError, match='cannot honour key_index_BT.*"chunked"'):
        key_ranges(AttentionMask(key_index_BT=PLACES), 256, 256)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.data())
def test_mosaic_key_ranges_say_the_rule(data):
    """Documents in order: start <= t < stop is exactly what the mask lets a query see."""
    rows = st.lists(st.integers(1, 5), min_size=12, max_size=12).map(sorted)
    keys = np.array([data.draw(rows) for _ in range(2)], np.int32)
    for row in keys:
        row[12 - data.draw(st.integers(0, 12)) :] = 0
    fields = {"query_segment_ids_BS": keys, "causal": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        index = np.array([data.draw(st.permutations(range(12)))[:4] for _ in range(2)], np.int32)
        chosen = np.take_along_axis(keys, index, axis=1)
        fields |= {"query_segment_ids_BS": chosen, "key_segment_ids_BT": keys, "query_index_BS": index}
    mask = AttentionMask(**jax.tree.map(jnp.asarray, fields) | {"causal": fields["causal"]})
    queries = fields["query_segment_ids_BS"].shape[1]
    ranges = key_ranges(mask, queries, 12)
    stop = jnp.arange(queries)[None] + 1 if ranges.stop_BS is None else ranges.stop_BS
    t = np.arange(12)[None, None]
    got = (t >= ranges.start_BS[:, :, None]) & (t < stop[:, :, None])
    assert got.any(axis=2).all(), "a softmax would be 0/0"
    np.testing.assert_array_equal(got & ~np.asarray(ranges.blind_BS)[:, :, None], visible(mask, queries, 12))
    assert np.asarray(ranges.ordered_B).all()


def test_mosaic_notices_documents_out_of_order():
    mask = AttentionMask(query_segment_ids_BS=ids([(1, 2), (2, 2), (1, 2)], [(1, 2), (0, 2), (2, 2)], [(3, 4), (0, 2)]))
    np.testing.assert_array_equal(key_ranges(mask, 6, 6).ordered_B, [False, False, True])


def test_blocks_of_other_documents_are_not_visited():
    plain = seen_blocks(AttentionMask(), 512, 512, (128, 128))
    assert isinstance(plain, np.ndarray)
    np.testing.assert_array_equal(plain, np.tri(4, dtype=bool))
    one_each = AttentionMask(query_segment_ids_BS=ids([(1, 128), (2, 128), (3, 128), (0, 128)]))
    seen = seen_blocks(one_each, 512, 512, (128, 128))
    np.testing.assert_array_equal(seen, np.diag([True, True, True, False]))
    first, stop = block_bounds(seen)
    np.testing.assert_array_equal((first, stop), ([0, 1, 2, 0], [1, 2, 3, 0]))


@pytest.mark.parametrize("name", CHUNKED_MASKS)
def test_no_needed_block_is_left_out(name):
    queries, keys, mask = CHUNKED_MASKS[name]
    seen = np.asarray(visible(mask, queries, keys)).any(axis=0)
    block = np.gcd(queries, keys)
    needed = seen.reshape(queries // block, block, keys // block, block).any(axis=(1, 3))
    visited = np.asarray(seen_blocks(mask, queries, keys, (int(block), int(block))))
    assert (visited | ~needed).all()


def test_chunked_never_holds_the_scores():
    """At S = 4096 the scores of 8 heads are 512 MiB; the whole forward and backward pass stays far below."""
    q, k = (jax.ShapeDtypeStruct((1, 4096, heads, 64), jnp.bfloat16) for heads in (8, 2))

    def loss(q, k, v):
        return attention(q, k, v, AttentionMask(), implementation="chunked").astype(jnp.float32).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
    assert default_blocks(8, 4096, 4096) == (256, 256)
    assert default_blocks(32, 64, 64) == (64, 64)
    assert default_blocks(16, 1, 8192) == (1, 8192)


def test_chunked_under_vmap():
    inputs = make_inputs(4, 160, 160, 2, 1, 8)
    segments = ids(*[[(1, 10 + 30 * row), (2, 150 - 30 * row)] for row in range(4)])

    def each(q, k, v, segments):
        mask = AttentionMask(query_segment_ids_BS=segments[None])
        return attention(q[None], k[None], v[None], mask, implementation="chunked")[0]

    @jax.jit
    def both(q, k, v, grad):
        out, vjp = jax.vjp(lambda q, k, v: jax.vmap(each)(q, k, v, segments), q, k, v)
        return out, *vjp(grad)

    assert_close(both(*inputs), run("reference", inputs, AttentionMask(query_segment_ids_BS=segments)))


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.bfloat16])
def test_chunked_in_a_rematerialised_scan(dtype):
    q, k, v, grad = make_inputs(2, 160, 160, 4, 2, 8, dtype)
    mask = AttentionMask(query_segment_ids_BS=ids([(1, 70), (2, 90)], [(1, 130), (0, 30)]))

    @functools.partial(jax.jit, static_argnums=0)
    def both(implementation, q, k, v, grad):
        def layers(q, k, v):
            layer = jax.checkpoint(lambda x, scale: (x + scale * run(x, k, v), None))
            return jax.lax.scan(layer, q, jnp.asarray([0.5, 0.25], dtype))[0]

        run = functools.partial(attention, mask=mask, implementation=implementation)
        out, vjp = jax.vjp(layers, q, k, v)
        return out, *vjp(grad)

    got, wanted = ([np.asarray(x, np.float32) for x in both(name, q, k, v, grad)] for name in ("chunked", "reference"))
    assert_close(got, wanted, tolerance=2e-5 if dtype == jnp.float32 else 5e-2)


def test_residuals_can_be_saved_by_name():
    """A checkpoint policy that names the residuals runs the forward loop once instead of twice."""
    q, k, v, _ = make_inputs(1, 160, 160, 2, 1, 8)

    def loops(policy):
        body = jax.checkpoint(lambda q: attention(q, k, v, AttentionMask(), implementation="chunked"), policy=policy)
        return str(jax.make_jaxpr(jax.grad(lambda q: body(jnp.sin(q)).sum()))(q)).count("scan[")

    saved = jax.checkpoint_policies.save_only_these_names(RESIDUAL_NAME)
    assert loops(saved) == loops(None) - 1


@pytest.mark.parametrize(
    ("implementation", "kind"),
    [("reference", AxisType.Explicit), ("chunked", AxisType.Explicit), ("chunked", AxisType.Auto)],
)
def test_sharded_over_batch_and_heads(implementation, kind):
    """Eight devices equal one, outputs and gradients stay sharded, and no array of q's or k's size is communicated."""
    inputs = make_inputs(2, 300, 300, 8, 4, 8)
    wanted = run("reference", inputs, AttentionMask(query_segment_ids_BS=PACKED_300))
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(kind,) * 2)
    spec = P("data", None, "tensor", None)

    @jax.jit
    def both(q, k, v, grad, segments):
        mask = AttentionMask(query_segment_ids_BS=segments)
        out, vjp = jax.vjp(lambda q, k, v: attention(q, k, v, mask, implementation=implementation), q, k, v)
        return out, *vjp(grad)

    with jax.set_mesh(mesh):
        sharded = [jax.device_put(x, NamedSharding(mesh, spec)) for x in inputs]
        segments = jax.device_put(PACKED_300, NamedSharding(mesh, P("data", None)))
        compiled = both.lower(*sharded, segments).compile()
        got = compiled(*sharded, segments)
    assert all(x.sharding.is_equivalent_to(NamedSharding(mesh, spec), 4) for x in got)
    assert_close([np.asarray(x) for x in got], wanted)
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-to-all", "collective-permute"))


@pytest.mark.parametrize(("implementation", "check_vma"), [("chunked", True), ("splash", False)])
def test_context_parallel_inside_shard_map(implementation, check_vma):
    """Zigzag chunks of the queries against gathered keys, documents and all: the form parallel/ uses (§3.3.2)."""
    inputs = make_inputs(1, 512, 512, 2, 1, 16)
    segments = ids([(1, 130), (2, 1), (3, 300), (0, 81)])
    order = np.concatenate([np.r_[i * 128 : i * 128 + 128, 384 - i * 128 : 512 - i * 128] for i in range(2)])
    mesh = jax.make_mesh((2,), ("context",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    mask = AttentionMask(
        query_segment_ids_BS=segments[:, order],
        key_segment_ids_BT=segments,
        query_index_BS=jnp.asarray(order, jnp.int32)[None],
    )
    split = P(None, "context")
    mask_specs = AttentionMask(query_segment_ids_BS=split, key_segment_ids_BT=P(), query_index_BS=split)
    local = functools.partial(attention, implementation=implementation, interpret=True)
    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(split, P(), P(), mask_specs), out_specs=split, check_vma=check_vma
    )

    @jax.jit
    def both(q, k, v, grad):
        out, vjp = jax.vjp(lambda q, k, v: mapped(q[:, order], k, v, mask)[:, np.argsort(order)], q, k, v)
        return out, *vjp(grad)

    assert_close(both(*inputs), run("reference", inputs, AttentionMask(query_segment_ids_BS=segments)))


def test_strict_dtypes():
    """No implicit promotion in the paths that are ours."""
    inputs = make_inputs(2, 300, 300, 2, 1, 8, jnp.bfloat16)
    mask = AttentionMask(query_segment_ids_BS=PACKED_300, query_index_BS=jnp.zeros((2, 300), jnp.int32))
    with jax.numpy_dtype_promotion("strict"):
        for implementation in ("reference", "chunked"):
            forward_and_backward.trace(*inputs, mask, implementation=implementation)


def test_the_mask_is_a_pytree_with_static_causality():
    mask = AttentionMask(query_segment_ids_BS=PACKED_300, causal=False)
    leaves, tree = jax.tree.flatten(mask)
    assert len(leaves) == 1 and jax.tree.unflatten(tree, leaves).causal is False
    assert jax.tree.structure(AttentionMask()) != jax.tree.structure(AttentionMask(causal=False))


def test_default_implementations_exist():
    names = {platform: default_implementation(platform) for platform in ("cpu", "tpu", "gpu", "cuda", "rocm")}
    assert names["cpu"] == names["rocm"] == "chunked" and names["tpu"] == "splash"
    assert set(names.values()) <= set(IMPLEMENTATIONS)


@pytest.mark.tpu_aot
def test_splash_compiles_for_tpu(monkeypatch):
    """Forward and backward for one context-parallel rank of 131,072 tokens, with its places and documents."""
    devices = devices_of(monkeypatch, "v5p:2x2x1")
    mesh = jax.make_mesh((4,), ("tensor",), devices=devices, axis_types=(AxisType.Auto,))
    heads = P(None, None, "tensor")

    def array(spec, dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    q, k = array(heads, jnp.bfloat16, 1, 4096, 32, 128), array(heads, jnp.bfloat16, 1, 131_072, 8, 128)
    query, key = array(P(), jnp.int32, 1, 4096), array(P(), jnp.int32, 1, 131_072)
    mask = AttentionMask(query_segment_ids_BS=query, key_segment_ids_BT=key, query_index_BS=query)
    local = functools.partial(forward_and_backward, implementation="splash")
    specs = (heads, heads, heads, heads, jax.tree.map(lambda _: P(), mask))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(heads,) * 4, check_vma=False)
    compiled = jax.jit(mapped).lower(q, k, k, q, mask).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30  # k, v and their gradients, transposed, are 512 MiB

"""Attention over a split sequence equals attention on one device, whatever the documents, the split and the kernel."""

import collections
import functools
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.ops.attention import AttentionMask, attention
from llama3_jax.parallel.balance import chunk_order, document_order
from llama3_jax.parallel.context import (
    context_attention,
    gather_block_order,
    gather_ids,
    gather_keys,
)
from llama3_jax.parallel.manual import manual
from tests.ahead_of_time import devices_of

NAMES = ("out", "dq", "dk", "dv")
LENGTH, BLOCK = 64, 4  # two chunks of 4 for each of 8 ranks
TOLERANCE = 1e-5


def ids(*rows):
    """Segment ids [B, S] from rows of (id, length) runs."""
    return np.asarray([np.concatenate([np.full(length, number) for number, length in row]) for row in rows], np.int32)


def make_inputs(batch, length, heads=4, kv_heads=2, size=8, dtype=np.float32):
    """q, k, v and an output gradient, normal."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((batch, length, n, size)).astype(dtype) for n in (heads, kv_heads, kv_heads, heads)]


@functools.cache
def split_program(implementation, block, sizes, devices=None, interpret=True):
    """(mesh, specs, compiled-once function) of split q, k, v, output gradient, ids and index, for mesh axis `sizes`."""
    sizes = {"fsdp": 1} | dict(sizes)
    mesh = make_mesh(MeshConfig(**sizes), devices or jax.devices()[: np.prod(list(sizes.values()))])
    layout = Layout.of(mesh)

    def attend(q, k, v, mask):
        return attention(q, k, v, mask, implementation=implementation, interpret=interpret)

    def local(q, k, v, segment_ids, index):
        order = gather_block_order(index, "context", block) if block else None
        mask = AttentionMask(query_segment_ids_BS=segment_ids, query_index_BS=index)
        return context_attention(q, k, v, mask, attend, "context", order)

    q, kv, ints = layout.used("BSHE"), layout.used("BSKE"), layout.used("BS")
    mapped = manual(local, layout, inputs=(q, kv, kv, ints, ints), outputs=q)

    @jax.jit
    def both(q, k, v, grad, segment_ids, index):
        out, vjp = jax.vjp(lambda q, k, v: mapped(q, k, v, segment_ids, index), q, k, v)
        return out, *vjp(grad)

    return mesh, [q, kv, kv, q, ints, ints], both


def order_of(segment_ids_BS, ranks, block):
    batch, length = segment_ids_BS.shape
    if block:
        return document_order(segment_ids_BS, ranks, block)
    return np.broadcast_to(chunk_order(length, ranks), (batch, length))


def take(x, order_BS):
    return np.take_along_axis(x, order_BS.reshape(order_BS.shape + (1,) * (x.ndim - 2)), axis=1)


def run_split(inputs, segment_ids_BS, *, ranks, block, implementation, order_BS=None, **sizes):
    """Output and gradients in the order of the sequence, from the split program; padding is poisoned."""
    order_BS = order_of(segment_ids_BS, ranks, block) if order_BS is None else order_BS
    poisoned = [np.where(segment_ids_BS[..., None, None] == 0, np.nan, x) for x in inputs]
    arrays = [take(x, order_BS) for x in (*poisoned, segment_ids_BS)] + [order_BS.astype(np.int32)]
    mesh, specs, both = split_program(implementation, block, tuple(sorted({"context": ranks, **sizes}.items())))
    with jax.set_mesh(mesh):
        results = both(*[jax.device_put(x, spec) for x, spec in zip(arrays, specs, strict=True)])
    return [take(np.asarray(x), np.argsort(order_BS, axis=1)) for x in results]


@jax.jit
def run_whole(inputs, segment_ids_BS):
    """The same on one device, by the plain reference."""
    mask = AttentionMask(query_segment_ids_BS=segment_ids_BS)
    *qkv, grad = inputs
    out, vjp = jax.vjp(lambda *qkv: attention(*qkv, mask, implementation="reference"), *qkv)
    return out, *vjp(grad)


def assert_equal(got, wanted):
    for name, a, b in zip(NAMES, got, wanted, strict=True):
        assert np.isfinite(a).all(), name
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * np.abs(b).max(initial=1e-30), err_msg=name)


ROWS = {  # two rows each
    "one document": [[(1, 64)], [(1, 63), (0, 1)]],
    "documents of one token": [[(n + 1, 1) for n in range(64)], [(n + 1, 1) for n in range(40)] + [(0, 24)]],
    "on the borders of chunks": [[(1, 8), (2, 8), (3, 32), (4, 16)], [(1, 4), (2, 28), (3, 32)]],
    "across the borders": [[(1, 7), (2, 2), (3, 22), (4, 33)], [(1, 9), (2, 1), (3, 47), (4, 1), (0, 6)]],
    "nothing but padding": [[(0, 64)], [(1, 1), (0, 63)]],
}


@pytest.mark.parametrize("block", [None, BLOCK])
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("name", ROWS)
def test_equals_one_device(name, ranks, block):
    inputs, rows = make_inputs(2, LENGTH), ids(*ROWS[name])
    got = run_split(inputs, rows, ranks=ranks, block=block, implementation="reference")
    assert_equal(got, run_whole(inputs, rows))


@st.composite
def packed_rows(draw):
    """Two rows of documents, long and short, some with padding at the end, [2, LENGTH]."""
    rows = []
    for _ in range(2):
        cuts = draw(st.lists(st.integers(1, LENGTH - 1), max_size=12, unique=True).map(sorted))
        row = np.searchsorted(cuts, np.arange(LENGTH), side="right") + 1
        row[LENGTH - draw(st.integers(0, 16)) :] = 0
        rows.append(row)
    return np.asarray(rows, np.int32)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize("block", [None, BLOCK])
@pytest.mark.parametrize("ranks", [2, 4, 8])
@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(rows=packed_rows(), seed=st.integers(0, 2**32))
def test_random_documents(implementation, ranks, block, rows, seed):
    """Also of any other order in whole blocks: the device may not rely on how the host balanced."""
    order_BS, inputs = None, make_inputs(2, LENGTH)
    if block:
        rng = np.random.default_rng(seed)
        blocks_BI = np.stack([rng.permutation(LENGTH // block) for _ in range(2)])
        order_BS = (blocks_BI[:, :, None] * block + np.arange(block)).reshape(2, LENGTH)
    got = run_split(inputs, rows, ranks=ranks, block=block, implementation=implementation, order_BS=order_BS)
    assert_equal(got, run_whole(inputs, rows))


@pytest.mark.parametrize("block", [None, 32])
def test_with_splash(block):
    rows = ids([(1, 31), (2, 1), (3, 160), (4, 64)], [(1, 129), (2, 100), (0, 27)])
    inputs = make_inputs(2, 256, heads=2, kv_heads=1)
    got = run_split(inputs, rows, ranks=2, block=block, implementation="splash")
    assert_equal(got, run_whole(inputs, rows))


@pytest.mark.parametrize("block", [None, BLOCK])
def test_beside_other_axes(block):
    """Rows of different orders on different devices, heads split too."""
    inputs, rows = make_inputs(2, LENGTH), ids(*[ROWS[name][0] for name in ("one document", "across the borders")])
    sizes = {"fsdp": 2, "tensor": 2}
    got = run_split(inputs, rows, ranks=2, block=block, implementation="reference", **sizes)
    assert_equal(got, run_whole(inputs, rows))


def on_ranks(function, ranks, *arrays, outputs):
    """`function` of each rank's part of the dim 1 of `arrays`."""
    mesh = make_mesh(MeshConfig(fsdp=1, context=ranks), jax.devices()[:ranks])
    layout = Layout.of(mesh)
    mapped = jax.jit(manual(function, layout, inputs=(P(None, "context"),) * len(arrays), outputs=outputs))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, P(None, "context")) for x in arrays]
        return mapped(*placed), mapped.lower(*placed)


def test_what_layers_share_can_be_made_once():
    """Key ids and the block order as arguments, places left out where the split is the paper's, no documents at all."""
    rows, inputs = ids(*ROWS["across the borders"]), make_inputs(2, LENGTH)
    plain = functools.partial(attention, implementation="reference")
    chunks_BS = order_of(rows, 4, None)

    def chunks(q, k, v, segment_ids):
        shared = AttentionMask(query_segment_ids_BS=segment_ids, key_segment_ids_BT=gather_ids(segment_ids, "context"))
        packed, alone = (context_attention(q, k, v, m, plain, "context") for m in (shared, AttentionMask()))
        return packed, alone

    arrays = [take(x, chunks_BS) for x in (*inputs[:3], rows)]
    results, _ = on_ranks(chunks, 4, *arrays, outputs=(P(None, "context"),) * 2)
    for got, segments in zip(results, (rows, np.ones_like(rows)), strict=True):
        wanted = take(run_whole(inputs, segments)[0], chunks_BS)
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE)


@pytest.mark.parametrize("block", [None, BLOCK])
def test_gathered_ids_lie_in_order(block):
    rows = ids(*ROWS["across the borders"])
    order_BS = order_of(rows, 4, block)

    def gather(segment_ids, index):
        return gather_ids(segment_ids, "context", gather_block_order(index, "context", block) if block else None)

    got, _ = on_ranks(gather, 4, take(rows, order_BS), order_BS.astype(np.int32), outputs=P())
    np.testing.assert_array_equal(got, rows)


@pytest.mark.parametrize("block", [None, BLOCK])
def test_gradients_are_summed_in_float32(block):
    """One rank brings 256, seven bring 1: 263, or 264 in bfloat16. Sums in bfloat16 lose ones, more or less by order.

    The CPU backend sums bfloat16 in float32 unasked, so the program before compilation is looked at as well.
    """
    ranks = 8
    order_BS = order_of(ids([(1, LENGTH)]), ranks, block)
    x = np.zeros((1, LENGTH, 1, ranks), jnp.bfloat16)

    def gradient(x, index):
        order = gather_block_order(index, "context", block) if block else None
        gathered, vjp = jax.vjp(lambda x: gather_keys(x, "context", order), x)
        rank = jax.lax.axis_index("context")
        grad_E = jnp.where(jnp.arange(ranks) == rank, 256, 1).astype(jnp.bfloat16)  # every rank is the large one once
        return vjp(jnp.broadcast_to(grad_E, gathered.shape))[0]

    got, lowered = on_ranks(gradient, ranks, x, order_BS.astype(np.int32), outputs=P(None, "context"))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(got, np.float32), 264)
    assert re.search(r"reduce_scatter.*?\}\) : \(tensor<[\dx]+xf32>\)", lowered.as_text(), re.DOTALL)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("block", [None, BLOCK])
def test_collectives_of_the_compiled_program(block, dtype):
    """One all-gather each of K and V, one reduce-scatter each of their gradients in float32, nothing else but ids."""
    rows = ids(*ROWS["across the borders"])
    mesh, specs, both = split_program("reference", block, (("context", 4),))
    arrays = [*(x.astype(dtype) for x in make_inputs(2, LENGTH)), rows, order_of(rows, 4, block).astype(np.int32)]
    with jax.set_mesh(mesh):
        text = both.lower(*[jax.device_put(x, s) for x, s in zip(arrays, specs, strict=True)]).compile().as_text()
    found = collections.Counter()
    for line in text.splitlines():
        if named := re.search(r"= \(?(\w+)\[.* (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", line):
            groups = re.search(r"replica_groups=(\{\{.*?\}\}|mesh\[.*?\] \{.*?\})", line)[1]
            if groups.endswith(("{{0,1,2,3}}", "{'context'}")):
                found[named.groups()] += 1
            else:  # over mesh axes of one device, which moves nothing
                assert groups.endswith(("{{0},{1},{2},{3}}", "{'data','fsdp','stage','tensor'}")), line
    numbers = 2 if block else 1  # ids, and the order's places
    wanted = {("f32", "all-gather"): 2, ("f32", "reduce-scatter"): 2, ("s32", "all-gather"): numbers}
    assert found == wanted  # XLA's CPU compiler gathers bfloat16 as float32


@pytest.mark.tpu_aot
@pytest.mark.parametrize("block", [None, 512])
def test_compiles_for_tpu(monkeypatch, block):
    """131,072 tokens over four ranks: keys and values gathered in bfloat16, gradients scattered in float32."""
    devices = devices_of(monkeypatch, "v5p:2x2x1")
    mesh, specs, both = split_program("splash", block, (("context", 4),), tuple(devices), interpret=False)
    shapes = [(1, 131_072, heads, 128) for heads in (8, 2, 2, 8)] + [(1, 131_072)] * 2
    arrays = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16 if len(shape) == 4 else jnp.int32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    with jax.set_mesh(mesh):
        compiled = both.lower(*arrays).compile()
    text = compiled.as_text()
    assert len(re.findall(r"= bf16\[4,32768,2,128\]\S* all-gather(?:-start)?\(", text)) == 2
    assert len(re.findall(r"%all-reduce-scatter\S* \(\S+ f32\[1,4,32768,2,128\]\)", text)) == 2
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, i: gather_keys(x[:, :3], "context"), "2 ranks holds two chunks .* 3 tokens"),
        (lambda x, i: gather_block_order(i, "context", 5), "blocks of 5 tokens do not divide the 8"),
        (lambda x, i: gather_keys(x[:, :5], "context", gather_block_order(i, "context", 4)), "5 tokens .* 4 equal"),
        (
            lambda x, i: context_attention(x, x, x, AttentionMask(key_index_BT=i), None, "context"),
            "leave key_index_BT out",
        ),
        (
            lambda x, i: context_attention(
                x, x, x, AttentionMask(), None, "context", gather_block_order(i, "context", 4)
            ),
            "needs query_index_BS",
        ),
    ],
)
def test_refusals(call, words):
    index = chunk_order(16, 2)[None]
    with pytest.raises(ValueError, match=words):
        on_ranks(call, 2, np.zeros((1, 16, 1, 2), np.float32), index, outputs=P())

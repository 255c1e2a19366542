"""The model against `transformers`, and against itself packed, cached, rematerialised and split over meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llama3_jax.core.params import count_params, init_params, letters_of, shardings_of, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.model.cache import init_pages
from llama3_jax.model.layers import ComputeConfig, RopeScaling, rope_frequencies
from llama3_jax.model.llama import HERD, Llama, LlamaConfig, flops_per_token, layer_weights
from llama3_jax.ops.attention import AttentionMask
from llama3_jax.ops.paged_attention import PagedRows

FP32 = ComputeConfig(compute_dtype="float32", remat="none", attention="reference")
TINY = LlamaConfig(
    vocab_size=96, num_layers=3, embed_dim=64, num_heads=8, num_kv_heads=2, head_dim=16, mlp_dim=96, max_length=16_384
)


def make_params(config, seed=0):
    return init_params(Llama(config, FP32), seed, make_mesh(MeshConfig(), jax.devices()[:1]))


def run(config, params, *arguments, compute=FP32):
    graphdef, _ = split_module(Llama(config, compute))
    return jax.jit(lambda params, *arguments: nnx.merge(graphdef, params)(*arguments))(params, *arguments)


def tokens_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, TINY.vocab_size, shape).astype(np.int32)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama3_8b", 8_030_261_248),
        ("llama3_1_70b", 70_553_706_496),
        ("llama3_405b", 405_853_388_800),
        ("llama3_2_1b", 1_235_814_400),
        ("llama3_2_3b", 3_212_749_824),
        ("llama3_3_70b", 70_553_706_496),
    ],
)
def test_parameter_counts(name, count):
    assert count_params(Llama(HERD[name])) == count


def test_rope_scaling_keeps_short_wavelengths_and_slows_long_ones():
    plain = np.asarray(rope_frequencies(128, 5e5, None))
    scaled = np.asarray(rope_frequencies(128, 5e5, RopeScaling(factor=8.0)))
    wavelengths = 2 * np.pi / plain
    np.testing.assert_array_equal(scaled[wavelengths < 2048], plain[wavelengths < 2048])
    np.testing.assert_allclose(scaled[wavelengths > 8192], plain[wavelengths > 8192] / 8, rtol=1e-6)
    between = (wavelengths > 2048) & (wavelengths < 8192)
    s = (8192 / wavelengths[between] - 1) / 3
    np.testing.assert_allclose(scaled[between], (1 - s) * plain[between] / 8 + s * plain[between], rtol=1e-5)
    assert between.any()


def test_packed_documents_equal_separate_ones():
    params = make_params(TINY)
    tokens_BS = tokens_of((1, 40))
    lengths = (7, 1, 20, 12)
    segments_BS = np.repeat(np.arange(1, 5), lengths)[None].astype(np.int32)
    positions_BS = np.concatenate([np.arange(n) for n in lengths])[None].astype(np.int32)
    mask = AttentionMask(query_segment_ids_BS=segments_BS, key_segment_ids_BT=segments_BS)
    packed = run(TINY, params, tokens_BS, positions_BS, mask)
    for document in np.split(np.arange(40), np.cumsum(lengths)[:-1]):
        alone = run(TINY, params, tokens_BS[:, document])
        np.testing.assert_allclose(packed[:, document], alone, atol=2e-5)


@pytest.mark.parametrize("remat", ["full", "dots", "save:attention,gate"])
def test_rematerialisation_and_unrolling_change_nothing(remat):
    params, tokens_BS = make_params(TINY), tokens_of((2, 16))

    def gradient(compute):
        graphdef, _ = split_module(Llama(TINY, compute))
        loss = lambda params: jnp.sum(nnx.merge(graphdef, params)(tokens_BS) ** 2)
        return jax.jit(jax.grad(loss))(params)

    expected = gradient(FP32)
    got = gradient(dataclasses.replace(FP32, remat=remat, scan_unroll=3))
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-4), got, expected)


def test_unknown_remat_policies_are_refused():
    with pytest.raises(ValueError, match="remat 'save:nothing' is not a policy"):
        Llama(TINY, dataclasses.replace(FP32, remat="save:nothing"))


@pytest.mark.parametrize("sizes", [{"tensor": 2, "fsdp": 4}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("tied", [False, True])
def test_split_over_a_mesh(sizes, tied):
    config = dataclasses.replace(TINY, tied=tied)
    params, tokens_BS = make_params(config), tokens_of((8, 16))
    expected = run(config, params, tokens_BS)
    mesh = make_mesh(MeshConfig(**({"fsdp": 1} | sizes)))
    layout = Layout.of(mesh)
    model = Llama(config, FP32, layout)
    graphdef, _ = split_module(model)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings_of(model, mesh))
        tokens = jax.device_put(tokens_BS, layout.used("BS"))
        logits = jax.jit(lambda params, tokens: nnx.merge(graphdef, params)(tokens))(placed, tokens)
    assert logits.sharding.spec == layout.used("BSV")
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_pieces_through_the_paged_cache_equal_the_whole_pass():
    params, tokens_BS = make_params(TINY), tokens_of((2, 12))
    apart = {n: jax.tree.map(lambda x, n=n: x[n], params["layers"]) for n in range(TINY.num_layers)}
    graphdef, _ = split_module(Llama(TINY, FP32, layers_apart=True))
    expected = run(TINY, params, tokens_BS)
    cache = init_pages(TINY.num_layers, 8, 4, TINY.num_kv_heads, TINY.head_dim, jnp.float32, Layout())
    table_BW = jnp.array([[5, 0, 7], [2, 3, 6]], jnp.int32)

    @jax.jit
    def forward(params, tokens, rows, cache):
        model = nnx.merge(graphdef, params)
        x_BSD, cache = model.hidden_paged(tokens, rows, cache, "row_by_row")
        return model.logits(x_BSD), cache

    pieces = []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 12)):
        rows = PagedRows(table_BW, jnp.full(2, start, jnp.int32), jnp.full(2, stop - start, jnp.int32))
        logits, cache = forward(params | {"layers": apart}, tokens_BS[:, start:stop], rows, cache)
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, atol=2e-5)


def test_flops_are_the_matmuls():
    config = dataclasses.replace(TINY, num_layers=1)
    matmuls = 64 * 16 * (2 * 8 + 2 * 2) + 3 * 64 * 96 + 64 * 96
    assert layer_weights(config) == matmuls - 64 * 96
    assert flops_per_token(config, 100, causal=False) == 6 * matmuls + 12 * 8 * 16 * 100
    assert flops_per_token(config, 100) == 6 * matmuls + 6 * 8 * 16 * 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_kv_heads": 3}, "not a multiple of num_kv_heads 3"), ({"head_dim": 7}, "odd"), ({"mlp_dim": 0}, "mlp_dim")],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_every_array_has_letters_of_its_shape():
    sizes = TINY.sizes
    params = make_params(TINY)
    jax.tree.map(lambda a, letters: _check(a, [sizes[letter] for letter in letters]), params, letters_of(Llama(TINY)))


def _check(array, shape):
    assert list(array.shape) == shape

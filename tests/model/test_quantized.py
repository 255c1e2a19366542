"""Models with 8-bit feed-forward layers: against numpy, split over tensor-parallel ranks, and made from others."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from llama3_jax.core.params import abstract_params, count_params, init_params, letters_of, shardings_of, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.model.layers import ComputeConfig, FeedForward
from llama3_jax.model.llama import HERD, Llama, LlamaConfig
from llama3_jax.model.quantized import QuantizedFeedForward, quantize_params
from llama3_jax.ops.elementwise import swiglu
from llama3_jax.ops.quant import GRIDS

FP32 = ComputeConfig(compute_dtype="float32", remat="none", attention="reference")
CONFIG = LlamaConfig(
    vocab_size=96, num_layers=4, embed_dim=64, num_heads=8, num_kv_heads=4, head_dim=16, mlp_dim=128, max_length=64
)
SIZES = {"B": 4, "S": 16, "D": 64, "F": 128}


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def apart(seed: int = 0) -> dict:
    """Parameters of an unquantised model, layers apart; feed-forwards large enough to matter."""
    params = init_params(Llama(CONFIG, FP32, layers_apart=True), seed, one_device())
    return jax.tree_util.tree_map_with_path(lambda path, x: 3 * x if "mlp'" in str(path) else x, params)


def copied(params):
    return jax.tree.map(jnp.copy, params)


def logits_of(params, quantized, layout: Layout = Layout()):
    graphdef, _ = split_module(Llama(CONFIG, FP32, layout, layers_apart=True, quantized=quantized))
    tokens_BS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (4, 16)).astype(np.int32)
    tokens_BS = tokens_BS if layout.single else jax.device_put(tokens_BS, layout.used("BS"))
    return jax.jit(lambda params, tokens_BS: nnx.merge(graphdef, params)(tokens_BS))(params, tokens_BS)


def mlp_params(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    draw = lambda rows, columns: (rng.normal(size=(rows, columns)) * rows**-0.5).astype(np.float32)
    return {"w1_DF": draw(64, 128), "w3_DF": draw(64, 128), "w2_FD": draw(128, 64)}


def activations(seed: int = 1) -> np.ndarray:
    """Normal draws, a token of each row five times as large."""
    x_BSD = np.random.default_rng(seed).normal(size=(4, 16, 64)).astype(np.float32)
    x_BSD[:, 3] *= 5
    return x_BSD


def in_8_bits(x: np.ndarray, kind: str, bound: float | None = None) -> np.ndarray:
    """What the rows of `x` become, in float64, in numpy."""
    largest = np.float32({"fp8": 448, "int8": 127}[kind])
    amax = np.abs(x).max(-1, keepdims=True)
    scale = np.maximum((amax if bound is None else np.minimum(amax, bound)) / largest, 1 / (largest * 512))
    scale = scale.astype(np.float32)
    scaled = np.clip(x * (np.float32(1) / scale), -largest, largest)
    values = scaled.astype(ml_dtypes.float8_e4m3fn) if kind == "fp8" else np.rint(scaled)
    return values.astype(np.float64) * scale.astype(np.float64)


def oracle(x_BSD: np.ndarray, mlp: dict[str, np.ndarray], kind: str, ranks: int = 1) -> np.ndarray:
    """The quantised feed-forward in numpy; of z each rank's part is quantised by itself, weights are not."""
    w1, w3, w2 = (in_8_bits(mlp[name].T, kind) for name in ("w1_DF", "w3_DF", "w2_FD"))
    x = in_8_bits(x_BSD, kind, 1200.0)
    z = np.asarray(swiglu(*(jnp.asarray(x @ w.T, jnp.float32) for w in (w1, w3))))
    parts = [in_8_bits(part, kind, 1200.0) for part in np.split(z, ranks, axis=-1)]
    return np.concatenate(parts, axis=-1) @ w2.T


def feed_forward(kind: str, layout: Layout, x, mlp) -> jax.Array:
    """Our module on arrays already placed; to be called where the mesh is set."""
    graphdef, _ = split_module(QuantizedFeedForward(SIZES, FP32, layout, 4, kind=kind))
    params = quantize_params({"layers": {0: {}, 1: {"mlp": mlp}, 2: {}}}, kind)["layers"][1]["mlp"]
    return jax.jit(lambda params, x: nnx.merge(graphdef, params)(x))(params, x)


def on_mesh(kind: str, sizes: dict[str, int], sequence_parallel: bool = True) -> np.ndarray:
    mesh = make_mesh(MeshConfig(**({"fsdp": 1} | sizes)), jax.devices()[: int(np.prod(list(sizes.values())))])
    layout = Layout.of(mesh, sequence_parallel=sequence_parallel)
    plain = FeedForward(SIZES, FP32, layout, 4)
    with jax.set_mesh(mesh):
        mlp = jax.device_put(mlp_params(), shardings_of(plain, mesh, layout))
        out = feed_forward(kind, layout, jax.device_put(activations(), layout.used("BRD")), mlp)
        assert out.sharding.spec == layout.used("BRD")
        return np.asarray(out)


def noise(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over that of what is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


def unquantised(x_BSD: np.ndarray, mlp: dict[str, np.ndarray]) -> np.ndarray:
    """The feed-forward as it was."""
    return np.asarray(swiglu(x_BSD @ mlp["w1_DF"], x_BSD @ mlp["w3_DF"])) @ mlp["w2_FD"]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest entry of its token."""
    return float((np.abs(found - expected) / np.abs(expected).max(-1, keepdims=True)).max())


@pytest.mark.parametrize("kind", GRIDS)
def test_the_feed_forward_is_that_of_numpy(kind):
    out = feed_forward(kind, Layout(), activations(), mlp_params())
    assert difference(np.asarray(out), oracle(activations(), mlp_params(), kind)) <= 1e-5
    assert 1e-3 < noise(out, unquantised(activations(), mlp_params())) < {"fp8": 0.08, "int8": 0.02}[kind]


@pytest.mark.parametrize("sizes", [{"tensor": 2}, {"tensor": 4}, {"data": 2, "fsdp": 2, "tensor": 2}, {"context": 2}])
@pytest.mark.parametrize("sequence_parallel", [True, False])
@pytest.mark.parametrize("kind", GRIDS)
def test_each_tensor_rank_quantises_its_own_part_of_what_w2_takes(kind, sizes, sequence_parallel):
    """The input of w2 has scales of its own on every rank; all else is as on one device."""
    ranks = sizes.get("tensor", 1)
    out = on_mesh(kind, sizes, sequence_parallel)
    assert difference(out, oracle(activations(), mlp_params(), kind, ranks)) <= 1e-5


@pytest.mark.parametrize(("kind", "bound"), [("fp8", 0.06), ("int8", 0.03)])
def test_two_ranks_differ_from_one_by_less_than_quantising_does(kind, bound):
    """Stated, and so held: a token's outputs move by at most `bound` of its largest when ranks become two."""
    one, two = on_mesh(kind, {"tensor": 1}), on_mesh(kind, {"tensor": 2})
    assert 1e-5 < difference(two, one) <= bound
    true = unquantised(activations(), mlp_params())
    assert noise(two, true) <= 1.1 * noise(one, true)


@pytest.mark.parametrize("kind", GRIDS)
def test_all_layers_but_the_first_and_the_last_are_quantised(kind):
    params = apart()
    expected = logits_of(params, None)
    replaced = params["layers"][1]["mlp"]["w1_DF"]
    quantized = quantize_params(params, kind)
    module = Llama(CONFIG, FP32, layers_apart=True, quantized=kind)
    declared = abstract_params(module, one_device())
    jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f"{a} {b}"), quantized, declared)
    for layer in (1, 2):
        assert quantized["layers"][layer]["mlp"]["w2_DF"].dtype == GRIDS[kind].dtype
        assert quantized["layers"][layer]["attention"] is params["layers"][layer]["attention"]
    for layer in (0, 3):
        assert quantized["layers"][layer] is params["layers"][layer]
    assert replaced.is_deleted() and not params["layers"][0]["mlp"]["w1_DF"].is_deleted()
    logits = logits_of(quantized, kind)
    assert 1e-3 < noise(logits, expected) < {"fp8": 0.1, "int8": 0.03}[kind]


@pytest.mark.parametrize("kind", GRIDS)
def test_a_model_split_over_a_mesh_is_quantised_where_it_lies(kind):
    """Weights split over fsdp too: the scales are those of whole rows."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    layout = Layout.of(mesh)
    alone = quantize_params(apart(), kind)
    module = Llama(CONFIG, FP32, layout, layers_apart=True, quantized=kind)
    params = apart()
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings_of(Llama(CONFIG, FP32, layout, layers_apart=True), mesh))
        split = quantize_params(placed, kind)
        logits = logits_of(split, kind, layout)
    jax.tree.map(np.testing.assert_array_equal, split, alone)
    for found, wanted in zip(jax.tree.leaves(split), jax.tree.leaves(shardings_of(module, mesh)), strict=True):
        assert found.sharding.is_equivalent_to(wanted, found.ndim)
    assert noise(logits, logits_of(alone, kind)) < {"fp8": 0.05, "int8": 0.02}[kind]


def test_layers_apart_are_the_stacked_ones():
    params = init_params(Llama(CONFIG, FP32), 0, one_device())
    taken = {i: jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(CONFIG.num_layers)}
    graphdef, _ = split_module(Llama(CONFIG, FP32))
    tokens_BS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (4, 16)).astype(np.int32)
    stacked = jax.jit(lambda params: nnx.merge(graphdef, params)(tokens_BS))(params)
    np.testing.assert_allclose(logits_of(params | {"layers": taken}, None), stacked, atol=1e-5)


def test_bfloat16_goes_in_and_comes_out():
    graphdef, _ = split_module(QuantizedFeedForward(SIZES, FP32, Layout(), 4, kind="fp8"))
    params = quantize_params({"layers": {0: {}, 1: {"mlp": mlp_params()}, 2: {}}}, "fp8")["layers"][1]["mlp"]
    out = nnx.merge(graphdef, params)(jnp.asarray(activations(), jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert noise(out, unquantised(activations(), mlp_params())) < 0.08


def test_a_quantised_405b_is_declared_in_8_bits():
    plain, quantized = (Llama(HERD["llama3_1_405b"], layers_apart=True, quantized=kind) for kind in (None, "fp8"))
    scales = 124 * (2 * 53_248 + 16_384)
    assert count_params(quantized) == count_params(plain) + scales
    letters = letters_of(quantized)["layers"]
    assert letters[1]["mlp"]["w1_FD"] == "FD" and "w1_DF" in letters[0]["mlp"] and "w1_DF" in letters[125]["mlp"]


def test_initial_values_are_spread_as_those_of_an_unquantised_model():
    for kind in GRIDS:
        params = init_params(Llama(CONFIG, FP32, layers_apart=True, quantized=kind), 0, one_device())
        mlp = params["layers"][1]["mlp"]
        for values, scales, std in (("w1_FD", "w1_scale_F", 64**-0.5), ("w2_DF", "w2_scale_D", 128**-0.5 / 8**0.5)):
            weights = np.asarray(mlp[values], np.float32) * np.asarray(mlp[scales])[:, None]
            np.testing.assert_allclose(weights.std(), std, rtol=0.05)


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match="it needs layers_apart"):
        Llama(CONFIG, quantized="fp8")
    with pytest.raises(ValueError, match="quantized is 'fp4'; there are fp8, int8"):
        Llama(CONFIG, layers_apart=True, quantized="fp4")
    with pytest.raises(
        ValueError, match="num_layers is 2: the first and the last layer stay, so none is left to quantise"
    ):
        quantize_params({"layers": {0: {}, 1: {}}}, "fp8")
    stacked = init_params(Llama(CONFIG, FP32), 0, one_device())
    with pytest.raises(ValueError, match="the layers are stacked"):
        quantize_params(stacked, "fp8")
    graphdef, _ = split_module(Llama(CONFIG, FP32, layers_apart=True, quantized="fp8"))
    quantized = quantize_params(apart(), "fp8")
    tokens_BS = np.zeros((1, 8), np.int32)
    with pytest.raises(ValueError, match="fp8 rows have no gradient"):
        jax.grad(lambda head: jnp.sum(nnx.merge(graphdef, quantized | {"embedding_VD": head})(tokens_BS)))(
            quantized["embedding_VD"]
        )

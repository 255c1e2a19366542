"""A model small enough to run whole for every token, and the two ways to run it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llama3_jax.core.params import EMPTY_ROW, Params, init_params, map_declarations, shardings_of, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.infer.engine import Engine
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.infer.staged import StagedModel, declare_staged
from llama3_jax.infer.whole import WholeModel
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.model.quantized import quantize_params

CONFIG = LlamaConfig(
    vocab_size=64, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, max_length=96
)
COMPUTE = ComputeConfig(compute_dtype="float32", remat="none", attention="reference")
SIZES = SchedulerConfig(num_slots=4, num_pages=120, page_size=4, max_length=96, prefill_tokens=16, smallest_piece=4)


def stacked_params(config: LlamaConfig = CONFIG) -> Params:
    """Initial values, sharper than usual, so that texts wander instead of repeating one token."""
    params = init_params(Llama(config, COMPUTE), 3, make_mesh(MeshConfig(), jax.devices()[:1]))
    return jax.tree.map(lambda x: x * 3, params)


def apart(params: Params) -> Params:
    """The same parameters with the layers apart."""
    num_layers = len(jax.tree.leaves(params["layers"])[0])
    layer = lambda number: jax.tree.map(lambda x: x[number], params["layers"])
    return params | {"layers": {number: layer(number) for number in range(num_layers)}}


def whole_pass(config: LlamaConfig = CONFIG):
    """`forward(tokens_BS) -> logits_BSV`, the plain pass without a cache."""
    graphdef, _ = split_module(Llama(config, COMPUTE))
    params = stacked_params(config)
    return jax.jit(lambda tokens_BS: nnx.merge(graphdef, params)(tokens_BS))


def engine(
    sizes: SchedulerConfig = SIZES,
    config: LlamaConfig = CONFIG,
    tensor: int = 1,
    stage: int = 1,
    quantized: str | None = None,
    **options,
) -> Engine:
    """An engine of the same model, split over `tensor` devices and stages, perhaps in 8 bits."""
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=tensor, stage=stage), jax.devices()[: tensor * stage])
    layout = Layout.of(mesh, sequence_parallel=False)
    params = apart(stacked_params(config))
    if quantized:
        params = quantize_params(params, quantized)
    params = jax.tree.map(np.asarray, params)
    if stage == 1:
        module = Llama(config, COMPUTE, layout, layers_apart=True, quantized=quantized)
    else:
        module = declare_staged(config, COMPUTE, layout, quantized)
        params = stacked_for(module, params)
    placed = jax.tree.map(jax.device_put, params, shardings_of(module, mesh, layout))
    return Engine((WholeModel if stage == 1 else StagedModel)(module, placed, mesh, sizes, **options))


def stacked_for(module: nnx.Module, params: Params) -> Params:
    """Parameters with layers apart, stacked as `module` declares; zeros where a row holds none."""

    def stack(path: tuple[str, ...], param: nnx.Param) -> np.ndarray:
        if path[0] != "layers":
            return functools.reduce(lambda node, key: node[key], path, params)
        of_layer = lambda row: functools.reduce(lambda node, key: node[key], path[2:], params["layers"][row])
        empty = np.zeros(param.get_value().shape[1:], param.get_value().dtype)
        return np.stack([empty if row == EMPTY_ROW else of_layer(row) for row in param.rows])

    return map_declarations(stack, module)


def generator(sizes: SchedulerConfig = SIZES, tokenizer=None, steps_ahead: int = 1, **options) -> Generator:
    """A generator on such an engine."""
    return Generator(engine(sizes, **options), tokenizer, steps_ahead=steps_ahead)


def prompts(lengths, seed: int = 0, vocab: int = CONFIG.vocab_size) -> list[list[int]]:
    """Random prompts of these lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, length).tolist() for length in lengths]


def padded(rows: list[list[int]], length: int) -> jnp.ndarray:
    """Rows of tokens as `[B, length]`, zeros behind."""
    tokens = np.zeros((len(rows), length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return jnp.asarray(tokens)

"""A model small enough to run whole for every token, and the two ways to run it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llama3_jax.core.params import EMPTY_ROW, Params, init_params, shardings_of, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.infer.engine import Engine
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.infer.staged import StagedModel, declare_staged
from llama3_jax.infer.whole import WholeModel
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig

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
    return params | {"layers": {str(number): layer(number) for number in range(num_layers)}}


def whole_pass(config: LlamaConfig = CONFIG):
    """`forward(tokens_BS) -> logits_BSV`, the plain pass without a cache."""
    graphdef, _ = split_module(Llama(config, COMPUTE))
    params = stacked_params(config)
    return jax.jit(lambda tokens_BS: nnx.merge(graphdef, params)(tokens_BS))


def engine(
    sizes: SchedulerConfig = SIZES, config: LlamaConfig = CONFIG, tensor: int = 1, stage: int = 1, **options
) -> Engine:
    """An engine of the same model, split over `tensor` devices and stages."""
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=tensor, stage=stage), jax.devices()[: tensor * stage])
    layout = Layout.of(mesh, sequence_parallel=False)
    params = jax.tree.map(np.asarray, stacked_params(config))
    if stage == 1:
        module = Llama(config, COMPUTE, layout, layers_apart=True)
        placed = jax.tree.map(jax.device_put, apart(params), shardings_of(module, mesh, layout))
        return Engine(WholeModel(module, placed, mesh, sizes, **options))
    module = declare_staged(config, COMPUTE, layout)
    layers = params["layers"]
    stacks = {
        str(number): jax.tree.map(lambda x, slot=slot: stack_of(x, slot.attention_norm.scale_M.rows), layers)
        for number, slot in enumerate(module.layers)
    }
    placed = jax.tree.map(jax.device_put, params | {"layers": stacks}, shardings_of(module, mesh, layout))
    return Engine(StagedModel(module, placed, mesh, sizes, **options))


def stack_of(layers_NX: np.ndarray, rows: tuple[int, ...]) -> np.ndarray:
    """The layers of these numbers, zeros where there is none."""
    return np.stack([np.zeros_like(layers_NX[0]) if row == EMPTY_ROW else layers_NX[row] for row in rows])


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

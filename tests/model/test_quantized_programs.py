"""A quantised feed-forward compiled for accelerators that are not here: which products it becomes, and what it copies.

Compiling says nothing about numbers; those are checked in test_quantized.py.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from llama3_jax.core.params import abstract_params, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import HERD
from llama3_jax.model.quantized import QuantizedFeedForward
from tests.ahead_of_time import devices_of

CONFIG = HERD["llama3_1_405b"]
CUBLAS = {"xla_gpu_enable_triton_gemm": False}  # as launch/xla_flags.toml


def compiled(monkeypatch, topology: str, kind: str, tokens: int, options: dict) -> str:
    """The program of one layer over the topology's devices as tensor-parallel ranks."""
    devices = devices_of(monkeypatch, topology)
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=len(devices)), devices)
    layout = Layout.of(mesh)
    module = QuantizedFeedForward(CONFIG.sizes, ComputeConfig(), layout, CONFIG.num_layers, kind=kind)
    graphdef, _ = split_module(module)
    placed = NamedSharding(mesh, layout.used("BRD"))
    x_BRD = jax.ShapeDtypeStruct((1, tokens, CONFIG.embed_dim), jnp.bfloat16, sharding=placed)
    with jax.set_mesh(mesh):
        run = jax.jit(lambda params, x_BRD: nnx.merge(graphdef, params)(x_BRD))
        return str(run.lower(abstract_params(module, mesh), x_BRD).compile(compiler_options=options).as_text())


@pytest.mark.cuda_aot
@pytest.mark.parametrize("tokens", [4096, 64])
def test_on_an_h100_the_products_are_cublas_fp8_and_weights_stay_where_they_are(monkeypatch, tokens):
    program = compiled(monkeypatch, "h100x8", "fp8", tokens, CUBLAS)
    assert program.count('custom_call_target="__cublas$lt$matmul$f8"') == 3
    gathers = [line for line in program.splitlines() if re.search(r" all-gather(-start)?\(", line)]
    assert any("f8e4m3fn[" in line for line in gathers)  # tokens travel in 8 bits
    assert not any("bf16[" in line for line in gathers)
    assert not re.search(r"= f8e4m3fn\[(6656,16384|16384,6656)\]\S* (copy|transpose)\(", program)


@pytest.mark.tpu_aot
@pytest.mark.parametrize(("kind", "dtype"), [("int8", "s8"), ("fp8", "f8e4m3fn")])
def test_on_a_tpu_tokens_travel_in_8_bits_and_nothing_is_widened_in_memory(monkeypatch, kind, dtype):
    program = compiled(monkeypatch, "v5p:2x2x2", kind, 4096, {})
    assert re.search(rf"{dtype}\[1,4096,16384\]\S* all-gather", program)
    assert not re.search(r"(bf16|f32)\[(6656,16384|16384,6656)\]", program)

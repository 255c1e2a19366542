"""The product of 8-bit rows compiled for accelerators that are not here: it is their 8-bit unit that multiplies."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from llama3_jax.ops.quant import GRIDS, Rows, quantize_rows, rows_product
from tests.ahead_of_time import devices_of

TOKENS, IN, OUT = 256, 4096, 14336
CUBLAS = {"xla_gpu_enable_triton_gemm": False}  # as in launch/xla_flags.toml


def product(grid, x, values, scales):
    return rows_product(quantize_rows(x, grid, 1200.0), Rows(values, scales), jnp.bfloat16)


@pytest.fixture
def program(monkeypatch):
    """`program(topology, grid, options)`: the HLO of a token-by-token quantised product of one device."""

    def compile_for(topology, grid, options=None):
        devices = devices_of(monkeypatch, topology)
        mesh = jax.make_mesh((len(devices),), ("tensor",), devices=devices, axis_types=(AxisType.Auto,))
        of = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P()))
        arguments = of(jnp.bfloat16, TOKENS, IN), of(GRIDS[grid].dtype, OUT, IN), of(jnp.float32, OUT)
        with jax.set_mesh(mesh):
            local = jax.shard_map(functools.partial(product, grid), in_specs=P(), out_specs=P(), check_vma=False)
            return jax.jit(local).lower(*arguments).compile(compiler_options=options).as_text()

    return compile_for


@pytest.mark.cuda_aot
def test_an_h100_multiplies_in_fp8_and_copies_no_weight(program):
    text = program("h100x8", "fp8", CUBLAS)
    assert "__cublas$lt$matmul$f8" in text
    assert not re.search(rf"(bf16|f16|f32)\[({OUT},{IN}|{IN},{OUT})\]", text)


@pytest.mark.tpu_aot
@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2"])
def test_a_tpu_multiplies_in_int8_and_widens_no_weight(program, topology):
    text = program(topology, "int8")
    products = re.findall(r"= (\w+)\[\S+ (?:convolution|dot)\(", text)
    assert products and all(found == "s32" for found in products)
    assert not re.search(rf"(bf16|f32|s32)\[({OUT},{IN}|{IN},{OUT})\]", text)

"""Paged attention compiled for accelerators that are not here: that it fits them, and copies no page of the cache.

Compiling says nothing about numbers: those of the kernels are checked interpreted, in test_paged_attention.py.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from llama3_jax.ops.paged_attention import PagedRows, default_implementation, paged_attention, write_pages
from tests.ahead_of_time import devices_of

PAGE, NUM_PAGES, WIDTH = 64, 20_000, 128  # rows of up to 8,192 tokens; 4.9 GiB of pages for 8 kv heads
HEADS = {"8b": (32, 8), "70b_tensor8": (8, 1), "405b_tensor8": (16, 1)}  # of one device
STEPS = {"decode": (64, 1), "prefill": (4, 512)}  # rows, new tokens

tpu = pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2"])
steps = pytest.mark.parametrize("step", STEPS)
heads = pytest.mark.parametrize("model", HEADS)


@pytest.fixture
def compiled(monkeypatch):
    """`compiled(function, topology, model, step, dtype)`: `function(pages, q, k, v, rows)`, its pages donated."""

    def compile_for(function, topology, model, step, dtype=jnp.bfloat16):
        devices = devices_of(monkeypatch, topology)
        mesh = jax.make_mesh((len(devices),), ("tensor",), devices=devices, axis_types=(AxisType.Auto,))
        (num_heads, kv_heads), (batch, num_new) = HEADS[model], STEPS[step]
        of = lambda kind, *shape: jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, P()))
        pages = of(dtype, NUM_PAGES, PAGE, 2 * kv_heads, 128)
        q, k = (of(dtype, batch, num_new, count, 128) for count in (num_heads, kv_heads))
        rows = PagedRows(of(jnp.int32, batch, WIDTH), *[of(jnp.int32, batch)] * 2)
        with jax.set_mesh(mesh):
            # Nothing is split: each device does as much as one of 8 would with its own heads.
            local = jax.shard_map(function, in_specs=P(), out_specs=P(), check_vma=False)
            return jax.jit(local, donate_argnums=0).lower(
                pages, q, k, k, rows
            ).compile(), pages.size * dtype.dtype.itemsize

    return compile_for


def write(pages, q, k, v, rows):
    return write_pages(pages, k, v, rows)


def attend(implementation, pages, q, k, v, rows):
    pages = write_pages(pages, k, v, rows)
    return paged_attention(q, pages, rows, implementation=implementation), pages


def check(program, cache_bytes, share):
    """The cache is written in place, and what the program needs beside it is less than `share` of it."""
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == cache_bytes
    assert memory.temp_size_in_bytes < share * cache_bytes
    assert memory.output_size_in_bytes < 1.5 * cache_bytes


@pytest.mark.tpu_aot
@heads
@steps
@tpu
def test_decoding_and_prefill_for_tpus(compiled, topology, step, model):
    function = functools.partial(attend, default_implementation("tpu"))
    check(*compiled(function, topology, model, step), share=0.03)


@pytest.mark.tpu_aot
def test_float32_for_tpus(compiled):
    check(*compiled(functools.partial(attend, "ragged"), "v5p:2x2x1", "8b", "prefill", jnp.float32), share=0.03)


@pytest.mark.cuda_aot
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@heads
@steps
def test_decoding_and_prefill_for_gpus(compiled, step, model, dtype):
    """XLA refuses a kernel that needs more shared memory than an H100 has."""
    function = functools.partial(attend, default_implementation("gpu"))
    check(*compiled(function, "h100x8", model, step, dtype), share=0.15 if step == "prefill" else 0.02)


@steps
@pytest.mark.parametrize(
    "topology",
    [pytest.param("v5p:2x2x1", marks=pytest.mark.tpu_aot), pytest.param("h100x8", marks=pytest.mark.cuda_aot)],
)
def test_pages_are_written_in_place(compiled, topology, step):
    program, cache_bytes = compiled(write, topology, "8b", step)
    check(program, cache_bytes, share=0.005)
    assert "dynamic-update-slice" not in program.as_text()

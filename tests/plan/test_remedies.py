"""What is read from a compiler that ran out of memory, and what is advised."""

import dataclasses
import re

import pytest

from llama3_jax.core.sharding import Layout, MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.plan.compiled import choose_segment
from llama3_jax.plan.remedies import Shortage, read_shortage, ways_out
from llama3_jax.plan.topology import parse_topology
from llama3_jax.train.paper import herd_run
from llama3_jax.train.recipe import Plan

GIB = 2**30
SHORT = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (18.50G) exceeds available HBM (15.75G). HLO module: jit_step."
)
LISTED = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm. Exceeded by 8.75G.

Largest program allocations in hbm:

  1. Size: 8.00G
     Operator: op_name="jit(step)/while"
     Shape: bf16[16,8192,32768]{2,1,0:T(8,128)(2,1)}
     Unpadded size: 8.00G
     ==========================

  2. Size: 512.0M
     Shape: f32[128,1048576]{1,0}
     ==========================
"""


@pytest.fixture
def run():
    return herd_run("llama3_8b", HERD["llama3_8b"], "8b", mesh=MeshConfig(), long_context=False)


def layout(config, num_devices):
    return Layout.of_sizes(config.mesh.resolve(num_devices))


def test_a_shortage_is_read():
    assert read_shortage(SHORT) == Shortage(int(18.5 * GIB), int(15.75 * GIB), ())
    listed = read_shortage(LISTED)
    assert (listed.needed, listed.available) == (int(24.5 * GIB), int(15.75 * GIB))
    assert [size for _, size in listed.buffers] == [8 * GIB, GIB // 2]
    assert listed.buffers[0][0].startswith("bf16[16,8192,32768]") and "jit(step)/while" in listed.buffers[0][0]
    assert read_shortage("INTERNAL: something else") is None


def test_advice_is_legal_sorted_and_helps(run):
    config = dataclasses.replace(run, micro_batch_tokens=2**20)
    topology = parse_topology("v5e-16")
    segment = choose_segment(Plan(config.recipe), None)[1]
    ways = ways_out(config, topology, segment, missing=20 * GIB)
    assert len(ways) == 3 and [way.enough for way in ways] == [way.saves >= 20 * GIB for way in ways]
    assert ways == sorted(ways, key=lambda way: (not way.enough, way.costs if way.enough else -way.saves))
    assert ways[0].flags == "--config.micro_batch_tokens=131072"
    for way in ways:
        assert re.fullmatch(r"(--config\.[\w.]+=\S+ ?)+", way.flags)


def test_nothing_helps_a_model_whose_state_alone_is_too_large(run):
    config = dataclasses.replace(run, micro_batch_tokens=2**16)
    segment = choose_segment(Plan(config.recipe), None)[1]
    assert not any(way.enough for way in ways_out(config, parse_topology("v5e-8"), segment, missing=200 * GIB))

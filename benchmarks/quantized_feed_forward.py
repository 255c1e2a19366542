"""What do 8 bits save in a feed-forward layer? Compiled for devices that are not here.

    JAX_PLATFORMS=cpu python -m benchmarks.quantized_feed_forward --topology=v5p:2x2x2 --tokens=4096,64

One layer of the 405B over the topology's devices as tensor-parallel ranks, in bf16 and in each grid of ops/quant.py: a
prompt of 4,096 tokens (sequence parallel) and 64 rows that decode. Prints one JSON line per compile: weights and
temporaries in MiB per device, the matrix products by the name of their library call, and on TPUs the compiler's
estimate of cycles, collectives left out. Nothing runs.
"""

import collections
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from flax import nnx
from jax.sharding import NamedSharding

from llama3_jax.core.params import abstract_params, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.model.layers import ComputeConfig, FeedForward
from llama3_jax.model.llama import HERD
from llama3_jax.model.quantized import QuantizedFeedForward
from llama3_jax.ops.quant import GRIDS
from llama3_jax.plan.hlo import program_costs
from llama3_jax.plan.topology import parse_topology, prepare_process, topology_devices

TOPOLOGY = flags.DEFINE_string("topology", "h100x8", "devices to compile for")
TOKENS = flags.DEFINE_list("tokens", ["4096", "64"], "tokens at once; fewer than 512 are decoded, one a row")
MODEL = flags.DEFINE_enum("model", "llama3_1_405b", sorted(HERD), "whose layer")
MIB = 2**20


def compiled(kind: str | None, tokens: int, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """The layer on `mesh`."""
    config, layout = HERD[MODEL.value], Layout.of(mesh, sequence_parallel=tokens >= 512)
    compute = ComputeConfig(param_dtype="bfloat16")
    arguments = (config.sizes, compute, layout, config.num_layers)
    module = FeedForward(*arguments) if kind is None else QuantizedFeedForward(*arguments, kind=kind)
    graphdef, _ = split_module(module)
    shape = (1, tokens, config.embed_dim) if tokens >= 512 else (tokens, 1, config.embed_dim)
    x_BRD = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, layout.used("BRD")))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda params, x_BRD: nnx.merge(graphdef, params)(x_BRD))
        return run.lower(abstract_params(module, mesh, layout), x_BRD).compile()


def main(_):
    topology = parse_topology(TOPOLOGY.value)
    prepare_process()
    devices = topology_devices(topology)
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=len(devices)), devices)
    for tokens in map(int, TOKENS.value):
        for kind in (None, *GRIDS):
            program = compiled(kind, tokens, mesh)
            memory: Any = program.memory_analysis()
            text = str(program.as_text())
            cycles = {name: round(value) for name, value in program_costs(text, mesh.shape).cycles.items()}
            products = collections.Counter(re.findall(r'custom_call_target="(__cublas[^"]+)"', text))
            found = {"topology": topology.name, "tokens": tokens, "weights": kind or "bf16"}
            found |= {"arguments_mib": round(memory.argument_size_in_bytes / MIB, 1)}
            found |= {"temporaries_mib": round(memory.temp_size_in_bytes / MIB, 1)}
            print(json.dumps(found | {"products": products, "cycles": cycles}), flush=True)


if __name__ == "__main__":
    app.run(main)

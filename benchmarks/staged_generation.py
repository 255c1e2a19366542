"""Does the 405B generate in 16 bits on two hosts of eight, stages across them (6.1)? One JSON line for each shape.

    python -m benchmarks.staged_generation --topology=h100x16

Compiled ahead of time, not run. `--slots` rows run at once, in two micro-batches; each has room for `--length` tokens
in pages of 64. Decoding ticks take half of the rows, ticks of prompts one piece.
"""

import argparse
import json
import time

import jax
from jax.sharding import Mesh

from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.infer.staged import StagedProgram, declare_staged
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import HERD
from llama3_jax.ops.paged_attention import default_implementation
from llama3_jax.ops.quant import GRIDS
from llama3_jax.plan.topology import parse_topology, prepare_process, topology_devices

PAGE = 64


def measure(program: StagedProgram, mesh: Mesh, piece: int) -> dict[str, float]:
    """Bytes of a device for ticks of one shape."""
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        tick = jax.jit(program.tick, static_argnums=6, donate_argnums=(1, 4))
        compiled = tick.lower(*program.declare(mesh, piece), False).compile()
    stats = compiled.memory_analysis()
    assert stats is not None
    return {
        "rows": program.rows_for(piece),
        "piece": piece,
        "arguments_gb": round(stats.argument_size_in_bytes / 1e9, 2),
        "temporaries_gb": round(stats.temp_size_in_bytes / 1e9, 2),
        "aliased_gb": round(stats.alias_size_in_bytes / 1e9, 2),
        "compile_seconds": round(time.perf_counter() - start),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama3_1_405b", choices=HERD)
    parser.add_argument("--topology", default="h100x16")
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--tensor", type=int, default=8)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--length", type=int, default=4352)
    parser.add_argument("--quantized", choices=GRIDS, help="feed-forward layers in 8 bits")
    options = parser.parse_args()
    prepare_process()
    topology = parse_topology(options.topology)
    mesh = make_mesh(MeshConfig(fsdp=1, stage=options.stage, tensor=options.tensor), topology_devices(topology))
    pages = options.slots * -(-options.length // PAGE)
    config = SchedulerConfig(
        num_slots=options.slots,
        num_pages=pages,
        page_size=PAGE,
        max_length=options.length,
        smallest_piece=512,
        num_groups=options.stage,
    )
    compute = ComputeConfig(param_dtype="bfloat16", compute_dtype="bfloat16")
    layout = Layout.of(mesh, sequence_parallel=False)
    module = declare_staged(HERD[options.model], compute, layout, options.quantized)
    attention = default_implementation(topology.hardware.platform, module.config.head_dim)
    program = StagedProgram(module, config, attention)
    for piece in (1, config.prefill_tokens):
        print(json.dumps({"benchmark": "staged_generation", **vars(options), **measure(program, mesh, piece)}))


if __name__ == "__main__":
    main()

"""What does a pipelined step cost beside one without a pipeline, and does the schedule explain it?

    python -m benchmarks.pipeline_step

The same batch and model on eight simulated CPU devices, data 2 x stage 4: 1f1b, interleaved 1f1b, gpipe; and on two
devices without a pipeline. Devices share the machine's cores, so an idle rank's ticks, which compute all the same, cost
time: a step should take 1 + bubble times one without a pipeline. Prints one JSON line with each step's seconds (median
of rounds in turn), its ratio to no pipeline, and the ratio that its schedule explains.
"""

import dataclasses
import json
import os
import statistics
import time

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("PJRT_NPROC", "64")  # threads for collectives that wait: one a device can be too few

import jax
import numpy as np

from llama3_jax.core.sharding import MeshConfig, batch_sharding, make_mesh
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.parallel.schedule import PipelineConfig
from llama3_jax.train.program import Program
from llama3_jax.train.recipe import one_batch_recipe
from llama3_jax.train.run_config import DataConfig, PretrainConfig

LENGTH, MICRO, ROWS, ROUNDS = 256, 16, 2, 5
MODEL = LlamaConfig(vocab_size=512, num_layers=16, embed_dim=256, num_heads=8, num_kv_heads=4, head_dim=32, mlp_dim=768)
RUNS = {  # data 2 everywhere, so that a micro-batch is one row a replica
    "none": (MeshConfig(data=2, fsdp=1), PipelineConfig()),
    "1f1b": (MeshConfig(data=2, fsdp=1, stage=4), PipelineConfig()),
    "interleaved": (MeshConfig(data=2, fsdp=1, stage=4), PipelineConfig(chunks=4)),
    "gpipe": (MeshConfig(data=2, fsdp=1, stage=4), PipelineConfig(schedule="gpipe")),
}


def ready(mesh_config: MeshConfig, pipeline: PipelineConfig):
    """`(run, bubble)`: a step on a made-up batch, state and all, and the schedule's bubble."""
    config = PretrainConfig(
        workdir="unused",
        model=MODEL,
        data=DataConfig(tokenizer="unused", sources={"text": "unused"}),
        recipe=one_batch_recipe(LENGTH, MICRO * ROWS, "text"),
        micro_batch_tokens=ROWS * LENGTH,
        mesh=mesh_config,
        pipeline=pipeline,
        compute=ComputeConfig(attention="auto", compute_dtype="float32", remat="full"),
    )
    mesh = make_mesh(mesh_config, jax.devices()[: mesh_config.data * mesh_config.stage])
    program = Program(config, mesh)
    (segment,) = program.plan.segments
    compiled, state = program.compiled(segment), program.fresh_state()
    batch = random_batch(program.batch_shape(segment))
    batch = {name: jax.device_put(array, batch_sharding(mesh, 3, leading=1)) for name, array in batch.items()}
    states = [jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state()))]

    def run() -> float:
        start = time.perf_counter()
        states[0], metrics = compiled(states[0], batch, np.float32(1e-3))
        metrics["loss"].block_until_ready()
        return time.perf_counter() - start

    stages = mesh.shape["stage"]
    return run, pipeline.schedule_of(stages, MICRO).bubble() if stages > 1 else 0.0


def random_batch(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """One document a row."""
    random = np.random.default_rng(0)
    tokens = lambda: random.integers(0, MODEL.vocab_size, shape, dtype=np.int32)
    positions = np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)
    ones = np.ones(shape, np.int32)
    return {
        "tokens": tokens(),
        "targets": tokens(),
        "segment_ids": ones,
        "positions": positions,
        "loss_weights": ones.astype(np.float32),
    }


def main() -> None:
    made = {name: ready(*run) for name, run in RUNS.items()}
    for run, _ in made.values():
        run()
    times = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, (run, _) in made.items():
            times[name].append(run())
    seconds = {name: statistics.median(values) for name, values in times.items()}
    result = {
        name: {
            "seconds": round(seconds[name], 3),
            "ratio": round(seconds[name] / seconds["none"], 3),
            "explained": round(1 + bubble, 3),
        }
        for name, (_, bubble) in made.items()
    }
    shape = dataclasses.asdict(MODEL)
    print(json.dumps({"benchmark": "pipeline_step", "model": shape, "micro_batches": MICRO, "steps": result}))


if __name__ == "__main__":
    main()

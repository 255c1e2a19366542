"""Does a pipeline's memory grow with the number of micro-batches? Compiled for devices that are not here.

    JAX_PLATFORMS=cpu python -m benchmarks.pipeline_memory --topology=h100x128 --micro_batches=16,64

One replica of the 405B at 8,192 tokens: 16 stages of 8 chunks, tensor 8. Prints one JSON line per compile: peak and its
temporaries in GiB per device, seconds of compilation. Arguments and outputs do not change with M.
"""

import dataclasses
import json

from absl import app, flags

from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.parallel.schedule import PipelineConfig
from llama3_jax.plan.compiled import compile_step
from llama3_jax.plan.topology import GIB, parse_topology, prepare_process
from llama3_jax.train.paper import herd_run
from llama3_jax.train.recipe import Plan, one_batch_recipe

TOPOLOGY = flags.DEFINE_string("topology", "h100x128", "128 devices to compile for")
MICRO_BATCHES = flags.DEFINE_list("micro_batches", ["16", "64"], "numbers of micro-batches")
SCHEDULES = flags.DEFINE_list("schedules", ["1f1b", "gpipe"], "schedules")
VOCABULARY = flags.DEFINE_enum("vocabulary", "stages", ["stages", "ends"], "where embedding and head are")
REMAT = flags.DEFINE_string("remat", "full", "rematerialisation policy")
LENGTH = 8192


def main(_):
    topology = parse_topology(TOPOLOGY.value)
    prepare_process()
    mesh = MeshConfig(fsdp=1, stage=16, tensor=8)
    run = herd_run("llama3_405b", HERD["llama3_1_405b"], "405b", mesh=mesh, long_context=True)
    for schedule in SCHEDULES.value:
        for micro_batches in map(int, MICRO_BATCHES.value):
            config = dataclasses.replace(
                run,
                compute=dataclasses.replace(run.compute, remat=REMAT.value),
                pipeline=PipelineConfig(chunks=8, schedule=schedule, vocabulary=VOCABULARY.value),
                micro_batch_tokens=LENGTH,
                recipe=one_batch_recipe(LENGTH, micro_batches, "general"),
            )
            step = compile_step(config, topology, Plan(config.recipe).segments[0])
            clock = topology.hardware.clock
            print(
                json.dumps(
                    {
                        "topology": topology.name,
                        "schedule": schedule,
                        "vocabulary": VOCABULARY.value,
                        "micro_batches": micro_batches,
                        "peak_gib": round(step.memory.peak / GIB, 2),
                        "temporaries_gib": round(step.memory.temporaries / GIB, 2),
                        "compile_seconds": round(step.compile_seconds, 1),
                        "host_gib": round(step.host_peak_bytes / GIB, 2),
                        "seconds_by_cycles": round(sum(step.cycles.values()) / clock, 2) if clock else None,
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)

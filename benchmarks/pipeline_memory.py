"""Does a pipeline's memory grow with the number of micro-batches? Compiled for devices that are not here.

    JAX_PLATFORMS=cpu python -m benchmarks.pipeline_memory --topology=h100x128 --micro_batches=16,64

One replica of the 405B at 8,192 tokens: 16 stages of 8 chunks, tensor 8. Prints one JSON line per compile: peak and its
temporaries in GiB per device, seconds of compilation. Arguments and outputs do not change with M.
"""

import dataclasses
import json

from absl import app, flags

from benchmarks.ahead_of_time import Run, compiled, config_of
from llama3_jax.plan.topology import GIB, prepare_process

TOPOLOGY = flags.DEFINE_string("topology", "h100x128", "128 devices to compile for")
MICRO_BATCHES = flags.DEFINE_list("micro_batches", ["16", "64"], "numbers of micro-batches")
SCHEDULES = flags.DEFINE_list("schedules", ["1f1b", "gpipe"], "schedules")
VOCABULARY = flags.DEFINE_enum("vocabulary", "stages", ["stages", "ends"], "where embedding and head are")
REMAT = flags.DEFINE_string("remat", "full", "rematerialisation policy")


def main(_):
    prepare_process()
    for schedule in SCHEDULES.value:
        for micro_batches in map(int, MICRO_BATCHES.value):
            run = Run(
                "llama3_1_405b", TOPOLOGY.value, rows=micro_batches, micro_batches=micro_batches, tensor=8, stage=16,
                chunks=8, remat=REMAT.value, vocabulary=VOCABULARY.value,
            )  # fmt: skip
            config = config_of(run)
            config = dataclasses.replace(config, pipeline=dataclasses.replace(config.pipeline, schedule=schedule))
            step = compiled(config, run.topology)
            clock = step.topology.hardware.clock
            print(
                json.dumps(
                    {
                        "topology": step.topology.name,
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

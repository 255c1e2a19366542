"""What do steps of many layouts need, by the compilers? The measure of the planner's memory estimate.

    python -m benchmarks.compiled_layouts [NAME ...] >> benchmarks/compiled_layouts.jsonl

One JSON line per layout: bytes of a device by `memory_analysis()`, and the step's FLOPs, cycles and collectives. The
lines kept beside this file are what tests/plan/test_memory.py holds `plan/memory.py` against; each says its compiler.
"""

import argparse
import dataclasses
import json
from importlib import metadata

import jax

from benchmarks.ahead_of_time import Run, compiled, config_of
from llama3_jax.plan.topology import prepare_process

LONG = 131_072
LEAN = "save:query,key,value,attention,residual"
SAVING = "save:query,key,value,attention,attention_residuals"

RUNS = {
    "1b h100 full": Run("llama3_2_1b", "h100x8", rows=16),
    "1b h100 none": Run("llama3_2_1b", "h100x8", rows=8, remat="none"),
    "8b h100 full": Run("llama3_8b", "h100x8", rows=16),
    "8b h100 dots": Run("llama3_8b", "h100x16", rows=16, remat="dots"),
    "8b h100 saving, tensor": Run("llama3_8b", "h100x8", rows=16, tensor=2, remat=SAVING),
    "8b h200 micro-batches": Run("llama3_8b", "h200x8", rows=64, micro_batches=8),
    "8b h100 kept": Run("llama3_8b", "h100x16", rows=32, micro_batches=2, tensor=4, reshard=False),
    "8b h100 context": Run("llama3_1_8b", "h100x32", rows=4, length=LONG, tensor=2, context=4),
    "8b h100 data": Run("llama3_8b", "h100x32", rows=32, data=4),
    "70b h100 full": Run("llama3_70b", "h100x128", rows=256),
    "70b h100 tensor": Run("llama3_70b", "h100x128", rows=64, tensor=8),
    "70b h100 saving": Run("llama3_70b", "h100x256", rows=64, tensor=8, remat=SAVING),
    "405b h100 tensor": Run("llama3_405b", "h100x1024", rows=128, tensor=8),
    "405b h200 context": Run("llama3_1_405b", "h200x1024", rows=8, length=LONG, tensor=8, context=16),
    "8b h100 pipeline": Run("llama3_8b", "h100x16", rows=32, stage=4, tensor=2, micro_batches=16, chunks=2, group=4),
    "8b h100 pipeline saving": Run(
        "llama3_8b", "h100x16", rows=16, stage=4, tensor=2, micro_batches=8, chunks=4, group=4, remat=SAVING
    ),
    "8b h100 pipeline ends": Run(
        "llama3_8b", "h100x16", rows=32, stage=4, micro_batches=8, chunks=8, group=4, remat=LEAN, vocabulary="ends"
    ),
    "70b h100 pipeline": Run(
        "llama3_70b", "h100x128", rows=64, stage=8, tensor=8, micro_batches=32, chunks=5, group=8, remat=LEAN
    ),
    "405b h100 pipeline": Run(
        "llama3_405b", "h100x256", rows=64, stage=16, tensor=8, micro_batches=32, chunks=8, group=16
    ),
    "405b h100 pipeline lean": Run(
        "llama3_405b", "h100x256", rows=64, stage=16, tensor=8, micro_batches=32, chunks=8, group=16, remat=LEAN
    ),
    "405b h100 pipeline context": Run(
        "llama3_1_405b",
        "h100x2048",
        rows=16,
        length=LONG,
        stage=16,
        context=16,
        tensor=8,
        micro_batches=16,
        chunks=8,
        group=16,
    ),
    "1b v5e full": Run("llama3_2_1b", "v5e-16", rows=32),
    "1b v6e none": Run("llama3_2_1b", "v6e-16", rows=16, remat="none"),
    "8b v6e full": Run("llama3_8b", "v6e-64", rows=64),
    "8b v5p full": Run("llama3_8b", "v5p-64", rows=64),
    "8b v5p saving, tensor": Run("llama3_8b", "v5p-32", rows=16, tensor=4, remat=SAVING),
    "8b v5p micro-batches": Run("llama3_8b", "v5p-32", rows=64, micro_batches=4, tensor=2),
    "8b v5p context": Run("llama3_1_8b", "v5p-64", rows=4, length=LONG, tensor=2, context=4),
    "70b v5p tensor": Run("llama3_70b", "v5p-256", rows=128, tensor=4),
    "8b v5p pipeline": Run("llama3_8b", "v5p-32", rows=32, stage=4, tensor=2, micro_batches=16, chunks=2, group=4),
    "8b v5p pipeline lean": Run(
        "llama3_8b", "v5p-32", rows=16, stage=4, tensor=2, micro_batches=8, chunks=8, group=4, remat=LEAN
    ),
    "70b ironwood": Run("llama3_70b", "tpu7x-128", rows=128, tensor=2),
    "405b v5p tensor": Run("llama3_405b", "v5p-1024", rows=128, tensor=8),
}


def measure(name: str) -> dict:
    """Compiles one layout."""
    run = RUNS[name]
    step = compiled(config_of(run), run.topology)
    stats = step.compiled.memory_analysis()
    fields = ("argument_size", "output_size", "alias_size", "temp_size", "peak_memory", "generated_code_size")
    return {
        "name": name,
        "run": dataclasses.asdict(run),
        "versions": {"jax": jax.__version__, "libtpu": metadata.version("libtpu")},
        "memory": {**dataclasses.asdict(step.memory), **{f: getattr(stats, f"{f}_in_bytes") for f in fields}},
        "flops": {"matmul": step.costs.matmul_flops, "attention": step.costs.attention_flops},
        "cycles": step.cycles,
        "collectives": [
            [key.kind, key.axis, key.group_size, key.exposed, count, size]
            for key, (count, size) in sorted(step.costs.collectives.items())
        ],
        "seconds": round(step.lower_seconds + step.compile_seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RUNS), choices=RUNS, help="which of them")
    prepare_process()
    for name in parser.parse_args().names:
        try:
            print(json.dumps(measure(name)), flush=True)
        except jax.errors.JaxRuntimeError as error:  # does not fit, as a compiler says it
            print(json.dumps({"name": name, "run": dataclasses.asdict(RUNS[name]), "error": str(error)}), flush=True)


if __name__ == "__main__":
    main()

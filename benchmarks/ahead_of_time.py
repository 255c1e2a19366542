"""What does the train step need and cost on chips that are not here?

    eval "$(python3 launch/flags.py tpu_v5p)" && export LIBTPU_INIT_ARGS   # or without
    python -m benchmarks.ahead_of_time [8b 70b 405b 405b_one_micro_batch]

One JSON line per run: the step of `llama3 pretrain` compiled by libtpu for a TPU slice with a peer's model, batch and
mesh. Memory in GB per device as `memory_analysis()` prints it; cycles in G per chip and step, attention kernels apart.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping

import jax

from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import HERD, LlamaConfig
from llama3_jax.parallel.schedule import PipelineConfig
from llama3_jax.plan.compiled import CompiledStep, compile_step
from llama3_jax.plan.topology import parse_topology, prepare_process
from llama3_jax.train.recipe import Plan, one_batch_recipe
from llama3_jax.train.run_config import DataConfig, PretrainConfig

LENGTH = 8192


@dataclasses.dataclass(frozen=True)
class Run:
    """A model on a slice: sequences a step, mesh (fsdp takes the chips left), micro-batches, how it is computed."""

    model: str
    topology: str
    rows: int
    tensor: int = 1
    micro_batches: int = 1
    remat: str = "full"
    length: int = LENGTH
    layers: int | None = None  # None: the model's own
    data: int = 1
    context: int = 1
    stage: int = 1
    reshard: bool = True
    chunks: int = 1
    group: int | None = None
    vocabulary: str = "stages"


RUNS = {
    "8b": Run("llama3_8b", "v5p-256", rows=256),
    "70b": Run("llama3_70b", "v5p-256", rows=256, tensor=4),
    "405b": Run("llama3_405b", "v5p-1024", rows=512, tensor=8, micro_batches=2),
    "8b_saving": Run(
        "llama3_8b", "v5p-256", rows=256, remat="save:query,key,value,attention,attention_residuals,gate,up"
    ),
    "70b_saving": Run("llama3_70b", "v5p-256", rows=256, tensor=4, remat="save:attention,attention_residuals"),
    "70b_fsdp": Run("llama3_70b", "v5p-256", rows=256, remat="save:attention,attention_residuals"),
    "405b_one_micro_batch": Run("llama3_405b", "v5p-1024", rows=512, tensor=8),
    "405b_largest": Run("llama3_405b", "v5p-12288", rows=1536, data=3, tensor=8, micro_batches=2),
    "405b_largest_pipeline": Run(
        "llama3_405b", "v5p-12288", rows=1536, data=3, tensor=8, stage=16, chunks=8, micro_batches=32
    ),
}


def config_of(run: Run, models: Mapping[str, LlamaConfig] = HERD) -> PretrainConfig:
    """A pre-training config whose only stage has the run's batches."""
    model = models[run.model]
    return PretrainConfig(
        workdir="unused",
        model=dataclasses.replace(model, num_layers=run.layers or model.num_layers),
        data=DataConfig(tokenizer="unused", sources={"text": "unused"}),
        recipe=one_batch_recipe(run.length, run.rows, "text"),
        micro_batch_tokens=run.rows * run.length // run.micro_batches,
        compute=ComputeConfig(attention="auto", remat=run.remat, reshard_after_forward=run.reshard),
        mesh=MeshConfig(data=run.data, stage=run.stage, context=run.context, tensor=run.tensor),
        pipeline=PipelineConfig(chunks=run.chunks, group=run.group, vocabulary=run.vocabulary),
    )


def compiled(config: PretrainConfig, topology: str) -> CompiledStep:
    """The step of a config with one stage, compiled for a topology."""
    (segment,) = Plan(config.recipe).segments
    return compile_step(config, parse_topology(topology), segment)


def measure(name: str) -> dict:
    """Compiles one run."""
    run = RUNS[name]
    step = compiled(config_of(run), run.topology)
    stats = step.compiled.memory_analysis()
    assert stats is not None
    return {
        "benchmark": "ahead_of_time",
        "run": name,
        "jax": jax.__version__,
        **dataclasses.asdict(run),
        "arguments_gb": round(stats.argument_size_in_bytes / 1e9, 2),
        "temporaries_gb": round(stats.temp_size_in_bytes / 1e9, 2),
        "peak_gb": round(stats.peak_memory_in_bytes / 1e9, 2),
        "cycles_g": {part: round(cycles / 1e9, 2) for part, cycles in step.cycles.items()},
        "compile_seconds": round(step.compile_seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=["8b"], choices=RUNS, help="which of them")
    prepare_process()
    for name in parser.parse_args().runs:
        print(json.dumps(measure(name)), flush=True)


if __name__ == "__main__":
    main()

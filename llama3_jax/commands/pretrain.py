"""`llama3 pretrain`: one program from a toy on two cores to 405B on a pod."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from llama3_jax.core.config import freeze
from llama3_jax.core.distributed import STOPPED, ClusterConfig, join
from llama3_jax.core.paths import path_of
from llama3_jax.train.explain import explain
from llama3_jax.train.pretrain import PretrainResult, pretrain
from llama3_jax.train.report import plot_losses
from llama3_jax.train.run_config import PretrainConfig

SUMMARY = "train a model from a config: initial stage, long context, annealing, average"
MANUAL = """
Trains what --config describes, from the work folder's newest checkpoint or from scratch. Any setting of the config can
be overridden: --config.recipe.total_tokens=2000000 --config.mesh.tensor=2. Stop it however you like (Ctrl-C, SIGTERM,
a crash): the same command continues, and on the same devices the losses are bit for bit those of an uninterrupted run.

WORKDIR holds config.json, metrics.jsonl, tensorboard/, checkpoints/, and at the end loss.png, goodput.json and final/,
the model (the average of the annealing checkpoints when the recipe asks for it). It is a folder, or gs:// (with the gcs
extra) or s3://, where metrics.jsonl is brought up to date with every checkpoint.

On several hosts the same command runs once on each (launch/ starts them): Cloud TPU, Slurm, MPI and Kubernetes tell the
processes of each other, elsewhere --coordinator, --num_processes and --process_id do. WORKDIR is then on storage that
all of them share. Asking any process to stop stops all at the same step; if one dies, the others say so and stop.

Exit status: 0 finished, 75 stopped or lost a process (the same command continues), 1 failed and says why.
"""
EXAMPLE = """
llama3 pretrain --config=configs/quickstart.py
llama3 pretrain --config=configs/llama3_8b.py --explain
llama3 pretrain --config=configs/llama3_405b.py --config.workdir=gs://bucket/run
"""
TAKES_CONFIG = True


CLUSTER = {  # flag -> its kind and what it says; all of them belong to ClusterConfig
    "coordinator": ("string", "HOST:PORT of process 0, the same for all processes; default: ask the cluster"),
    "num_processes": ("integer", "number of processes; 1 never asks the cluster"),
    "process_id": ("integer", "which of them this is, from 0"),
    "heartbeat_timeout": ("float", "seconds without a sign of life after which the other processes stop"),
    "start_timeout": ("integer", "seconds within which all processes must have arrived"),
}


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("explain", False, "print the resolved stages and stop", flag_values=values)
    defaults = ClusterConfig()
    for name, (kind, text) in CLUSTER.items():
        getattr(flags, f"DEFINE_{kind}")(name, getattr(defaults, name), text, flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    if options["config"] is None:
        raise ValueError("--config is required, for example --config=configs/quickstart.py")
    config = freeze(PretrainConfig, options["config"])
    if options["explain"]:
        print(explain(config))
        return 0
    peers = join(ClusterConfig(**{name: options[name] for name in CLUSTER}), label="llama3 pretrain")
    with peers or contextlib.nullcontext():
        result = pretrain(config, peers=peers)
        if jax.process_index() == 0:
            _tell(config, result)
    return 0 if result.finished else STOPPED


def _tell(config: PretrainConfig, result: PretrainResult) -> None:
    if result.already_finished:
        print(f"{config.workdir}: finished before, at step {result.steps}; nothing to do (remove it to train again)")
        return
    picture = path_of(config.workdir) / "loss.png"
    plot_losses(config.workdir, str(picture))
    print(f"{config.workdir}: {result.steps} steps, goodput {result.goodput['goodput']:.0%}, loss curve in {picture}")
    if result.final:
        print(f"the model is in {result.final}")

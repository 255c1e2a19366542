"""`llama3 pretrain`: one program from a toy on two cores to 405B on a pod."""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.core.config import freeze
from llama3_jax.train.explain import explain
from llama3_jax.train.pretrain import pretrain
from llama3_jax.train.report import plot_losses
from llama3_jax.train.run_config import PretrainConfig

SUMMARY = "train a model from a config: initial stage, long context, annealing, average"
MANUAL = """
Trains what --config describes, from the work folder's newest checkpoint or from scratch. Any setting of the config can
be overridden: --config.recipe.total_tokens=2000000 --config.mesh.tensor=2. Stop it however you like (Ctrl-C, SIGTERM,
a crash): the same command continues, and on the same devices the losses are bit for bit those of an uninterrupted run.

WORKDIR holds config.json, metrics.jsonl, tensorboard/, checkpoints/, and at the end loss.png, goodput.json and final/,
the model (the average of the annealing checkpoints when the recipe asks for it).
"""
EXAMPLE = """
llama3 pretrain --config=configs/quickstart.py
llama3 pretrain --config=configs/llama3_8b.py --explain
llama3 pretrain --config=configs/llama3_405b.py --config.workdir=gs://bucket/run
"""
TAKES_CONFIG = True


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("explain", False, "print the resolved stages and stop", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    if options["config"] is None:
        raise ValueError("--config is required, for example --config=configs/quickstart.py")
    config = freeze(PretrainConfig, options["config"])
    if options["explain"]:
        print(explain(config))
        return 0
    result = pretrain(config)
    if result.already_finished:
        print(f"{config.workdir}: finished before, at step {result.steps}; nothing to do (remove it to train again)")
        return 0
    picture = pathlib.Path(config.workdir) / "loss.png"
    plot_losses(config.workdir, str(picture))
    print(f"{config.workdir}: {result.steps} steps, goodput {result.goodput['goodput']:.0%}, loss curve in {picture}")
    if result.final:
        print(f"the model is in {result.final}")
    return 0 if result.finished else 1

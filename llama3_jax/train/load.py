"""A trained model from a run's folder."""

import dataclasses
from typing import Any

from etils import epath
from flax import nnx
from jax.sharding import Mesh

from llama3_jax.core import config as config_lib
from llama3_jax.core.params import Params, abstract_params, split_module
from llama3_jax.core.paths import path_of
from llama3_jax.core.sharding import Layout
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.model.llama import Llama
from llama3_jax.train.checkpoint import Checkpoints
from llama3_jax.train.program import resolve_compute, stage_model
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A checkpoint opened for use: `nnx.merge(graphdef, params)` is the model."""

    config: PretrainConfig
    run: dict[str, Any]
    graphdef: Any
    params: Params
    tokenizer: Tokenizer

    @property
    def model(self) -> Llama:
        """Code and weights joined."""
        return nnx.merge(self.graphdef, self.params)


def load_model(path: str, mesh: Mesh, step: int | None = None) -> TrainedModel:
    """Opens a run's folder (its `final/`, else its newest checkpoint), or a folder of checkpoints itself.

    Arrays are placed on `mesh`. Raises FileNotFoundError when there is no complete checkpoint, ValueError when the
    tokenizer is not the one the model was trained with.
    """
    checkpoints = _find(path_of(path), step)
    step = checkpoints.latest() if step is None else step
    assert step is not None
    run = checkpoints.read_run(step)
    config = config_lib.freeze(PretrainConfig, run["config"], "checkpoint")
    tokenizer = Tokenizer.load(config.data.tokenizer)
    if tokenizer.fingerprint != run["fingerprints"]["tokenizer"]:
        raise ValueError(f"{config.data.tokenizer} is not the tokenizer that {path} was trained with")
    rope_scaling = Plan(config.recipe).segment(max(0, step - 1)).rope_scaling
    layout = Layout.of(mesh, sequence_parallel=config.compute.sequence_parallel)
    model = Llama(stage_model(config.model, rope_scaling), resolve_compute(config.compute, mesh), layout)
    params = checkpoints.restore_params(step, abstract_params(model, mesh))
    checkpoints.close()
    return TrainedModel(config, run, split_module(model)[0], params, tokenizer)


def _find(path: epath.Path, step: int | None) -> Checkpoints:
    for folder in (path / "final", path / "checkpoints", path):
        if not folder.is_dir():
            continue
        checkpoints = Checkpoints(str(folder), read_only=True)
        steps = checkpoints.steps()
        if steps and (step is None or step in steps):
            return checkpoints
    wanted = "complete checkpoint" if step is None else f"checkpoint of step {step}"
    raise FileNotFoundError(f"{path} has no {wanted}")

"""The config of a classifier's training, its plan and what it minimises.

The plan counts in documents where pre-training's counts in tokens: a row is one document.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llama3_jax.core.sharding import MeshConfig
from llama3_jax.data.windows import WindowConfig
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.roberta import RobertaConfig
from llama3_jax.train.checkpoint import CheckpointConfig
from llama3_jax.train.gradients import LossFn
from llama3_jax.train.optim import OptimizerConfig
from llama3_jax.train.recipe import Anneal, LearningRate, MixtureStep, RampStep, RecipeConfig

FINE_TUNING = OptimizerConfig(beta2=0.999, epsilon=1e-6, weight_decay=0.01)  # as RoBERTa is fine-tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything about one run. Saved, resolved, with every checkpoint."""

    workdir: str
    model: RobertaConfig = RobertaConfig()
    windows: WindowConfig = WindowConfig()
    epochs: int = 3
    batch_rows: int = 32
    learning_rate: float = 5e-5  # at its highest
    warmup_share: float = 0.06  # of all steps
    positive_from: float = 3.0  # the label from which a document counts as good in the evaluation
    seed: int = 0
    compute: ComputeConfig = ComputeConfig(attention="auto", remat="none")
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = FINE_TUNING
    checkpoint: CheckpointConfig = CheckpointConfig()
    log_every: int = 50

    def __post_init__(self):
        for field in ("epochs", "batch_rows", "log_every"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        if self.learning_rate <= 0 or not 0 < self.warmup_share < 1:
            raise ValueError("learning_rate must be positive and warmup_share between 0 and 1")
        if self.model.num_labels == 0:
            raise ValueError("model.num_labels is 0; a classifier has at least one output")
        if self.model.num_labels > 1 and not 0 < self.positive_from <= self.model.num_labels - 1:
            raise ValueError(
                f"positive_from {self.positive_from:g} does not part {self.model.num_labels} classes, "
                f"0 to {self.model.num_labels - 1}"
            )


def classifier_recipe(config: ClassifierConfig, steps_per_epoch: int) -> RecipeConfig:
    """The run's plan in documents: linear warm-up, then linear to 0. Raises ValueError for a single step."""
    steps = config.epochs * steps_per_epoch
    if steps < 2:
        raise ValueError(
            f"{steps} step leaves none after the warm-up; give more epochs or documents, or fewer batch_rows"
        )
    warmup, peak = min(steps - 1, max(1, round(config.warmup_share * steps))), config.learning_rate
    return RecipeConfig(
        total_tokens=steps * config.batch_rows,
        ramp=(RampStep(tokens=0, sequence_length=1, batch_tokens=config.batch_rows),),
        mixture=(MixtureStep(tokens=0, weights={"documents": 1.0}),),
        learning_rate=LearningRate(peak=peak, final=peak, warmup_steps=warmup, decay_steps=warmup + 1),
        anneal=Anneal(tokens=(steps - warmup) * config.batch_rows),
    )


def make_classifier_objective(num_labels: int) -> LossFn:
    """Squared error of one output, cross-entropy of several; summed over documents, which `tokens` counts."""

    def objective(model: Any, batch: Mapping[str, jax.Array]):
        logits_BL = model(batch["tokens"], batch["lengths"])
        labels_B, weights_B = batch["labels"], batch["weights"]
        if num_labels == 1:
            losses_B = jnp.square(logits_BL[:, 0] - labels_B)
        else:
            hit_BL = labels_B.astype(jnp.int32)[:, None] == jnp.arange(num_labels, dtype=jnp.int32)[None, :]
            losses_B = -jnp.sum(jnp.where(hit_BL, jax.nn.log_softmax(logits_BL), 0.0), axis=1)
        loss = jnp.sum(jnp.where(weights_B > 0, losses_B * weights_B, 0.0))
        return loss, {"tokens": jnp.sum(weights_B)}

    return objective

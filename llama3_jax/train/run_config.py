"""The config of a pre-training run: one frozen dataclass, built from the configs of its parts."""

import dataclasses
from collections.abc import Mapping

from llama3_jax.core.sharding import Layout, MeshConfig
from llama3_jax.core.telemetry import TelemetryConfig
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.parallel.schedule import PipelineConfig
from llama3_jax.train.checkpoint import CheckpointConfig
from llama3_jax.train.optim import OptimizerConfig
from llama3_jax.train.recipe import Plan, RecipeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Token stores (made by `llama3 tokenize`) and how they are read."""

    tokenizer: str
    sources: dict[str, str]  # name -> folder or URL of a token store
    held_out: str | None = None
    packing: str = "concat"
    long_documents: str = "split"
    lanes: int = 256  # places of a source that are read in turn, so that a batch's rows are not neighbours
    verify: str = "full"  # before training: full hashes every shard, quick looks at shapes, off
    num_workers: int = 2
    prefetch_batches: int = 2

    def __post_init__(self):
        if not self.sources:
            raise ValueError("data.sources names no token store")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out loss during the run: at the end of every stage, and every `every_steps` when given."""

    every_steps: int | None = None
    rows: int | None = 256  # held-out rows per evaluation, rounded up to whole batches; None reads all
    recovery: float = 1.01  # the short_context gate: loss at the short length over its value before long context


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything about one run. Saved, resolved, with every checkpoint."""

    workdir: str
    model: LlamaConfig
    data: DataConfig
    recipe: RecipeConfig
    seed: int = 0
    micro_batch_tokens: int | None = None  # tokens of a micro-batch over the whole mesh; None takes a batch at once
    z_loss: float = 0.0
    compute: ComputeConfig = ComputeConfig(attention="auto")
    mesh: MeshConfig = MeshConfig()
    pipeline: PipelineConfig = PipelineConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    def __post_init__(self):
        known = set(self.data.sources)
        for step in self.recipe.mixture:
            unknown = set(step.weights) - known
            if unknown:
                raise ValueError(f"recipe.mixture names {sorted(unknown)}, data.sources has {sorted(known)}")
        longest = max(segment.sequence_length for segment in Plan(self.recipe).segments)
        if longest > self.model.max_length:
            raise ValueError(f"the recipe trains at {longest} tokens, model.max_length is {self.model.max_length}")
        if (
            self.recipe.long_context.stages
            and "short_context" in self.recipe.long_context.gates
            and not self.data.held_out
        ):
            raise ValueError("the short_context gate needs data.held_out")


def layout_of(config: PretrainConfig, sizes: Mapping[str, int]) -> Layout:
    """The layout of a run on a mesh of these sizes."""
    return Layout.of_sizes(
        sizes,
        sequence_parallel=config.compute.sequence_parallel,
        vocab_over_stages=config.pipeline.vocabulary == "stages",
    )

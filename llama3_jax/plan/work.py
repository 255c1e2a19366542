"""What one device does in a step, counted: tokens, products, what the backward pass repeats, bytes sent over each axis.

Everything here follows from the config and the mesh; nothing is measured or fitted. `plan/memory.py` turns it into
bytes, `plan/project.py` into seconds.
"""

import dataclasses
import functools

from llama3_jax.core.sharding import Layout
from llama3_jax.model.llama import LlamaConfig, layer_products, layer_weights
from llama3_jax.model.remat import saved_names
from llama3_jax.parallel.schedule import PipelineConfig, Schedule, chunk_rows
from llama3_jax.train.program import batch_shape
from llama3_jax.train.recipe import Segment
from llama3_jax.train.run_config import PretrainConfig

HALF, FULL = 2, 4  # bytes of bfloat16 and float32


def repeated_weights(model: LlamaConfig, policy: str) -> int:
    """Weights of the products that the backward pass runs again in one layer."""
    kept = (*saved_names(policy), "down")
    return sum(weights for name, weights in layer_products(model).items() if name not in kept)


def repeats_attention(policy: str, kernel_names_residuals: bool) -> bool:
    """Whether the backward pass runs attention forward again; some kernels do not name what would make it needless."""
    return policy != "none" and not (kernel_names_residuals and "attention_residuals" in saved_names(policy))


@dataclasses.dataclass(frozen=True)
class Rings:
    """What the estimates need of a pipeline's schedule."""

    ticks: int
    inputs: int  # slots of the ring of chunk inputs
    gradients: int  # slots of the ring of gradients
    regular: float | None  # the bubble of a regular schedule, whatever a forward and a backward cost
    schedule: Schedule | None  # the table of any other

    def bubble(self, forward: float, backward: float) -> float:
        """Time lost over time worked."""
        if self.regular is not None:
            return self.regular
        assert self.schedule is not None
        return self.schedule.bubble(forward, backward)


@functools.cache
def rings_of(pipeline: PipelineConfig, ranks: int, micro_batches: int) -> Rings:
    """The rings of a schedule, by formulas where groups are equal and no smaller than the ranks, else by its table.

    A table of thousands of ticks takes a second to make, and a search meets thousands of schedules.
    Raises ValueError as `make_schedule`.
    """
    group, chunks = pipeline.group_of(ranks, micro_batches), pipeline.chunks
    if pipeline.schedule != "1f1b" or group < ranks or micro_batches % group:
        table = pipeline.schedule_of(ranks, micro_batches)
        return Rings(table.ticks, table.input_slots, table.gradient_slots, None, table)
    waiting = (group - ranks) * (chunks > 1)
    warm_up = (chunks - 1) * group + 2 * (ranks - 1)
    inputs = min(chunks * micro_batches, warm_up + 1 + waiting)
    bubble = (ranks - 1) / (chunks * micro_batches)
    return Rings(chunks * micro_batches + warm_up, inputs, 1 + waiting, bubble, None)


@dataclasses.dataclass(frozen=True)
class Share:
    """One device's share of a step of `segment`."""

    config: PretrainConfig
    layout: Layout
    segment: Segment
    kernel_names_residuals: bool = True  # attention_residuals means something to the attention kernel

    @property
    def model(self) -> LlamaConfig:
        """The model's sizes."""
        return self.config.model

    @functools.cached_property
    def batch(self) -> tuple[int, int, int]:
        """Micro-batches, rows of one over the whole mesh, sequence length."""
        return batch_shape(self.config, self.segment, self.layout)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step."""
        return self.batch[0]

    @functools.cached_property
    def tokens(self) -> float:
        """Tokens of a micro-batch on this device, which its tensor group shares."""
        _, rows, length = self.batch
        return rows * length / self.layout.num_devices(("data", "fsdp", "context"))

    @functools.cached_property
    def rings(self) -> Rings | None:
        """The pipeline's; None without a stage axis."""
        stages = self.layout.size("stage")
        return rings_of(self.config.pipeline, stages, self.micro_batches) if stages > 1 else None

    @functools.cached_property
    def layer_slots(self) -> int:
        """Layers that this device runs, those rows included that hold none: all ranks have equally many."""
        if self.rings is None:
            return self.model.num_layers
        chunks = self.config.pipeline.chunks
        return chunks * chunk_rows(self.model.num_layers, self.layout.size("stage"), chunks)

    @property
    def chunk_slots(self) -> int:
        """The same of one chunk; of all layers without a pipeline."""
        return self.layer_slots // (1 if self.rings is None else self.config.pipeline.chunks)

    @functools.cached_property
    def vocab_parts(self) -> int:
        """Devices that split the vocabulary."""
        return self.layout.num_devices(self.layout.split_axes("V"))

    @property
    def residual_parts(self) -> int:
        """Devices of a tensor group that split the residual stream among them."""
        return self.layout.num_devices(self.layout.sequence_parallel_axes)

    @functools.cached_property
    def layer_weights(self) -> float:
        """Weights of one layer's products on this device when they come whole over fsdp."""
        return layer_weights(self.model) / self.layout.size("tensor")

    @functools.cached_property
    def outer_weights(self) -> float:
        """Weights of embedding and output head on this device when they come whole over fsdp."""
        return self.model.vocab_size * self.model.embed_dim * (1 if self.model.tied else 2) / self.vocab_parts

    @functools.cached_property
    def stored_weights(self) -> float:
        """Weights at rest on this device."""
        return (self.layer_slots * self.layer_weights + self.outer_weights) / self.layout.size("fsdp")

    @property
    def policy(self) -> str:
        """What the backward pass finds kept."""
        return self.config.compute.remat

    @functools.cached_property
    def layer_flops(self) -> tuple[float, float]:
        """FLOPs of one layer's products for a micro-batch: forward, and backward with what it repeats."""
        forward = 2.0 * self.tokens * self.layer_weights
        repeated = 2.0 * self.tokens * repeated_weights(self.model, self.policy) / self.layout.size("tensor")
        return forward, 2 * forward + repeated

    @functools.cached_property
    def attention_flops(self) -> tuple[float, float]:
        """FLOPs of one layer's causal attention for a micro-batch, forward and backward.

        The backward pass has five products to the forward's two, as flash attention makes the scores again.
        """
        heads = self.model.num_heads * self.model.head_dim / self.layout.size("tensor")
        forward = 2.0 * self.tokens * self.segment.sequence_length * heads
        return forward, (2.5 + repeats_attention(self.policy, self.kernel_names_residuals)) * forward

    @functools.cached_property
    def head_flops(self) -> float:
        """FLOPs of the output head for a micro-batch, forward and backward: the loss repeats nothing."""
        return 6.0 * self.tokens * self.model.vocab_size * self.model.embed_dim / self.vocab_parts

    @functools.cached_property
    def tensor_bytes(self) -> tuple[float, float]:
        """Bytes that a device sends over the tensor axis in one layer for a micro-batch, forward and backward.

        Forward, two gathers of a product's input and two scatters of a result; backward, the gathers again, those of
        two gradients, and two scatters (parallel/project.py). What is repeated sends again.
        """
        tensor = self.layout.size("tensor")
        unit = HALF * self.tokens * self.model.embed_dim * (tensor - 1) / tensor
        kept = saved_names(self.policy)
        gathers = [any(name not in kept for name in inputs) for inputs in (("query", "key", "value"), ("gate", "up"))]
        repeated = sum(gathers) + ("residual" not in kept)
        return 4 * unit, (6 + repeated) * unit

    @functools.cached_property
    def context_bytes(self) -> tuple[float, float]:
        """Bytes received over the context axis in one layer for a micro-batch: keys and values, then their gradients.

        The gradients are added up in float32.
        """
        context = self.layout.size("context")
        values = 2 * self.tokens * (context - 1) * self.model.num_kv_heads * self.model.head_dim
        values /= self.layout.size("tensor")
        repeated = HALF * repeats_attention(self.policy, self.kernel_names_residuals)
        return HALF * values, (FULL + repeated) * values

    @functools.cached_property
    def gather_bytes(self) -> float:
        """Bytes of weights received over fsdp in one step."""
        fsdp = self.layout.size("fsdp")
        once = self.rings is not None or not self.config.compute.reshard_after_forward
        layers = HALF * self.layer_slots * self.layer_weights * (1 if once else 2 * self.micro_batches)
        outer = FULL * self.outer_weights if self.rings else HALF * self.micro_batches * self.outer_weights
        return (layers + outer) * (fsdp - 1) / fsdp

    @functools.cached_property
    def reduce_bytes(self) -> float:
        """Bytes of float32 gradients sent over fsdp in one step."""
        fsdp = self.layout.size("fsdp")
        times = 1 if self.rings else self.micro_batches
        return FULL * times * (self.layer_slots * self.layer_weights + self.outer_weights) * (fsdp - 1) / fsdp

    @functools.cached_property
    def replica_bytes(self) -> float:
        """Bytes of float32 gradients sent over the data axis in one step: an all-reduce sends all of them twice."""
        data = self.layout.size("data")
        times = 1 if self.rings else self.micro_batches
        return 2 * FULL * times * self.stored_weights * (data - 1) / data

    @functools.cached_property
    def message_bytes(self) -> float:
        """Bytes of one message to the next stage: a micro-batch's residual stream."""
        return HALF * self.tokens * self.model.embed_dim / self.residual_parts

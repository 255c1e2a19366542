"""How long a step takes, part by part: a projection from counted work, the hardware's table and a few fitted rates.

Products and attention run at a fitted share of the peak; element-wise work, gradient sums and the optimizer at the
memory's rate; collectives at their links' rate, in part hidden behind the products. A pipeline's bubble comes from its
schedule. The rates are fitted by benchmarks/plan_fit.py on published runs of other trainers: a projection says what a
well-made run of this layout takes, not what this project was measured to take.

Not modelled: uneven documents, stragglers, data loading, network contention and topology beyond a host or slice, power
limits other than through the fitted share, small products (all are taken to run at the same share of the peak).
"""

import dataclasses

from llama3_jax.model.llama import flops_per_token
from llama3_jax.plan.links import Links
from llama3_jax.plan.topology import Hardware
from llama3_jax.plan.work import HALF, Share

# Element-wise passes over a layer's arrays in the forward pass, reads and writes of bfloat16: two norms (2 each), two
# additions (3 each) and the inputs of two products; rotation and attention's input and output; SwiGLU reads two and
# writes one.
STREAM_PASSES, QUERY_PASSES, WIDE_PASSES = 12, 4, 3
UPDATE_BYTES = 32  # of traffic for a weight: its gradient is read twice (norm, update), p, m and v are read and written
SUM_BYTES = 12  # reading two float32 numbers and writing their sum
STATE_BYTES = 12  # of a weight in a checkpoint


@dataclasses.dataclass(frozen=True)
class Rates:
    """What is fitted."""

    matmul: float  # share of the peak
    attention: float  # the same for attention kernels, counted causal
    hidden: float  # share of fsdp, data and context communication that runs beside products that last long enough
    hidden_tensor: float  # the same for the tensor axis, whose gathers and scatters stand between the products


# By benchmarks/plan_fit.py, which also says how well they predict rows they were not fitted on.
ATTENTION_GPU, ATTENTION_TPU, HIDDEN, HIDDEN_TENSOR = 0.55, 0.379, 0.437, 0.0
RATES = {
    "h100": Rates(0.622, ATTENTION_GPU, HIDDEN, HIDDEN_TENSOR),
    "v5e": Rates(0.507, ATTENTION_TPU, HIDDEN, HIDDEN_TENSOR),
    "v5p": Rates(0.939, ATTENTION_TPU, HIDDEN, HIDDEN_TENSOR),
    "v6e": Rates(0.637, ATTENTION_TPU, HIDDEN, HIDDEN_TENSOR),
    "tpu7x": Rates(0.809, ATTENTION_TPU, HIDDEN, HIDDEN_TENSOR),
}
ALIKE = {"h200": "h100", "b200": "h100", "v4": "v5p"}  # no published rows: taken from a relative


@dataclasses.dataclass(frozen=True)
class Projection:
    """Seconds of a step by part, and what they mean."""

    seconds: dict[str, float]
    tick: tuple[float, float]  # seconds of a chunk's forward and backward for one micro-batch
    tokens: float  # of the whole batch
    model_flops: tuple[float, float]  # of one device in a step, attention counted causal and full
    peak_flops: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    def mfu(self, *, causal: bool = True) -> float:
        """The model's own FLOPs over those of the peak; attention causal or full, head counted, repeats not."""
        return self.model_flops[0 if causal else 1] / self.peak_flops / self.step


def rates_of(hardware: Hardware) -> Rates:
    """The fitted rates of a kind of hardware."""
    return RATES[ALIKE.get(hardware.name, hardware.name)]


def project(share: Share, hardware: Hardware, rates: Rates | None = None) -> Projection:
    """The projection for one device's `share` of a step."""
    rates = rates or rates_of(hardware)
    links = Links(hardware, share.layout)
    forward, backward = (_layer(share, hardware, rates, links, way) for way in (0, 1))
    passes = share.micro_batches * share.layer_slots
    seconds = {part: passes * (forward[part] + backward[part]) for part in forward}
    seconds["head and loss"] = share.micro_batches * share.head_flops / (rates.matmul * hardware.peak_flops)
    compute = sum(seconds.values())
    tick = share.chunk_slots * sum(forward.values()), share.chunk_slots * sum(backward.values())
    if share.rings is not None:
        seconds |= _pipeline(share, links, tick)
    seconds |= _data_parallel(share, links, rates, compute)
    seconds |= _state(share, hardware)
    devices = share.layout.num_devices([axis for axis, _ in share.layout.sizes])
    flops = [
        flops_per_token(share.model, share.segment.sequence_length, causal=causal)
        * share.segment.batch_tokens
        / devices
        for causal in (True, False)
    ]
    return Projection(seconds, tick, share.segment.batch_tokens, (flops[0], flops[1]), hardware.peak_flops)


def _layer(share: Share, hardware: Hardware, rates: Rates, links: Links, way: int) -> dict[str, float]:
    """Seconds of one layer for a micro-batch, forward (0) or backward (1)."""
    model, tensor = share.model, share.layout.size("tensor")
    products = share.layer_flops[way] / (rates.matmul * hardware.peak_flops)
    attention = share.attention_flops[way] / (rates.attention * hardware.peak_flops)
    width = STREAM_PASSES * model.embed_dim / share.residual_parts
    width += (QUERY_PASSES * model.num_heads * model.head_dim + WIDE_PASSES * model.mlp_dim) / tensor
    repeated = share.layer_flops[1] / share.layer_flops[0] - 2
    traffic = HALF * share.tokens * width * (1, 2 + repeated)[way]
    if way and share.rings is not None:
        traffic += SUM_BYTES * share.layer_weights
    context = share.context_bytes[way] / links.rate("context")
    return {
        "products": products,
        "attention": attention,
        "element-wise": traffic / hardware.memory_rate,
        "tensor communication": share.tensor_bytes[way] / links.rate("tensor") * (1 - rates.hidden_tensor),
        "context communication": max((1 - rates.hidden) * context, context - products - attention),
    }


def _pipeline(share: Share, links: Links, tick: tuple[float, float]) -> dict[str, float]:
    """The bubble, and messages as far as they last longer than what a tick computes."""
    assert share.rings is not None
    worked = share.config.pipeline.chunks * share.micro_batches * sum(tick)
    message = share.message_bytes / links.message_rate()
    late = max(0.0, message - tick[0]) + max(0.0, message - tick[1])
    return {
        "pipeline bubble": share.rings.bubble(*tick) * worked,
        "pipeline messages": late * share.rings.ticks,
    }


def _data_parallel(share: Share, links: Links, rates: Rates, compute: float) -> dict[str, float]:
    """Weights gathered and gradients reduced, as far as nothing hides them.

    In a pipeline that is once a step: the first chunk's weights and the last chunk's gradients are waited for.
    """
    seconds = (share.gather_bytes + share.reduce_bytes) / links.rate("fsdp")
    seconds += share.replica_bytes / links.rate("data")
    if share.rings is not None:
        waited = 1 / share.config.pipeline.chunks
        hidden = rates.hidden * (1 - waited)
    else:
        hidden = rates.hidden
    return {"data-parallel communication": max((1 - hidden) * seconds, seconds - compute)}


def _state(share: Share, hardware: Hardware) -> dict[str, float]:
    """Optimizer, sums over micro-batches, and what copying a checkpoint to the host costs each step on average."""
    sums = SUM_BYTES * share.micro_batches if share.micro_batches > 1 and share.rings is None else 0
    saved = STATE_BYTES * share.stored_weights / hardware.host_bytes
    return {
        "optimizer": (UPDATE_BYTES + sums) * share.stored_weights / hardware.memory_rate,
        "checkpoint": saved / share.config.checkpoint.every_steps,
    }

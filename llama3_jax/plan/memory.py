"""Peak memory of a device for one train step, part by part, estimated from config and mesh (3.3.2).

State (weights, moments, batch) lives through the step. Beside it the backward pass needs what the forward pass kept,
gradients, gathered weights and one layer's activations at work; the loss needs the head, its gradient and a chunk's
logits. The two do not peak together, so the larger counts. With a pipeline the rings of the schedule take the place of
what is kept, and weights and float32 gradients are whole over fsdp.

What is kept, stored and gathered is counted. How many buffers the compilers use for a layer at work and for gradients
beside those at rest is not ours to decide: `Buffers` holds these few numbers for each platform, fitted on the compiled
layouts of benchmarks/compiled_layouts.jsonl, against which tests/plan/test_memory.py checks the whole.
"""

import dataclasses

from llama3_jax.data.packing import ROW_DTYPES
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.model.remat import saved_names
from llama3_jax.plan.work import FULL, HALF, Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buffers:
    """How generously a compiler buffers, fitted."""

    wide: float  # arrays of a layer's hidden width [tokens, F] alive at once in its backward pass
    narrow: float  # arrays of the residual stream [tokens, D] as it is split
    whole: float  # the same, gathered over the tensor axis
    weights: float  # copies of a layer's gathered weights: this layer's, the next one's, and gradients on their way
    gradients: float  # of the layers' gradients at rest: more than 1 where they are copied into another memory layout
    logits: float  # float32 arrays [chunk, V] of the loss


BUFFERS = {
    "cuda": Buffers(wide=8.0, narrow=1.8, whole=3.8, weights=2.5, gradients=1.3, logits=1.5),
    "tpu": Buffers(wide=4.0, narrow=2.5, whole=0.5, weights=7.0, gradients=1.9, logits=3.4),
}


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one device by what they hold. `loss` and `backward` peak at different times."""

    always: dict[str, float]
    loss: dict[str, float]
    backward: dict[str, float]

    @property
    def parts(self) -> dict[str, float]:
        """What is alive at the peak."""
        return self.always | max(self.loss, self.backward, key=lambda phase: sum(phase.values()))

    @property
    def peak(self) -> float:
        """Their sum."""
        return sum(self.parts.values())


def estimate_memory(share: Share, platform: str) -> MemoryEstimate:
    """The estimate for one device of `platform`, a key of BUFFERS."""
    buffers = BUFFERS[platform]
    kept = _kept(share)
    state = {
        "weights, float32": FULL * share.stored_weights,
        "optimizer moments": 2 * FULL * share.stored_weights,
        "batch": FULL * len(ROW_DTYPES) * share.micro_batches * share.tokens,
    }
    return MemoryEstimate(state | kept | _weights(share), _loss(share, buffers), _backward(share, buffers))


def kept_width(model: LlamaConfig, policy: str, kernel_names_residuals: bool = True) -> tuple[float, float]:
    """Elements per token that a layer keeps for its backward pass: of the residual stream, and split over tensor.

    The input is always kept. `none` keeps the two norms' results, the stream between, what attention reads and makes,
    and the three arrays of SwiGLU; any other policy what it names.
    """
    width, query, key = model.embed_dim, model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    if policy == "none":
        return 4 * width, 3 * query + 4 * key + 3 * model.mlp_dim
    widths = {"query": query, "key": key, "value": key, "attention": query}
    widths["attention_residuals"] = query if kernel_names_residuals else 0
    widths |= {"gate": model.mlp_dim, "up": model.mlp_dim}
    names = saved_names(policy)
    return width * (1 + ("residual" in names)), sum(widths.get(name, 0) for name in names)


def _kept_bytes(share: Share) -> float:
    """Bytes that one layer keeps of a micro-batch."""
    stream, split = kept_width(share.model, share.policy, share.kernel_names_residuals)
    return HALF * share.tokens * (stream / share.residual_parts + split / share.layout.size("tensor"))


def _kept(share: Share) -> dict[str, float]:
    if share.rings is None:
        return {"kept for the backward pass": share.layer_slots * _kept_bytes(share)}
    inputs, gradients = share.rings.inputs + 1, share.rings.gradients + 1
    keeps = share.chunk_slots if share.policy != "full" else 0
    return {
        "ring of chunk inputs": inputs * share.message_bytes,
        "ring of gradients and messages": (gradients + 2) * share.message_bytes,
        "rings of kept values": inputs * keeps * (_kept_bytes(share) - share.message_bytes),
    }


def _weights(share: Share) -> dict[str, float]:
    """Copies and sums of whole-model size that live through the step."""
    layers = share.layer_slots * share.layer_weights
    if share.rings is not None:
        return {
            "gathered weights": HALF * layers + FULL * share.outer_weights,
            "gradients, float32, whole over fsdp": FULL * (layers + share.outer_weights),
            "gradients, float32, reduced": FULL * share.stored_weights,
        }
    copies = {} if share.config.compute.reshard_after_forward else {"gathered weights": HALF * layers}
    sums = {"gradient sums": FULL * share.stored_weights} if share.micro_batches > 1 else {}
    return copies | sums


def _loss(share: Share, buffers: Buffers) -> dict[str, float]:
    head = share.model.vocab_size * share.model.embed_dim / share.vocab_parts
    chunk = min(share.config.compute.loss_chunk, share.tokens)
    return {
        "output head, gathered, and its gradient": (HALF + FULL) * head,
        "logits of a loss chunk": buffers.logits * FULL * chunk * share.model.vocab_size / share.vocab_parts,
        "final hidden states": 3 * HALF * share.tokens * share.model.embed_dim / share.residual_parts,
    }


def _backward(share: Share, buffers: Buffers) -> dict[str, float]:
    model, tensor = share.model, share.layout.size("tensor")
    wide = buffers.wide * model.mlp_dim / tensor
    narrow = buffers.narrow * model.embed_dim / share.residual_parts
    narrow += buffers.whole * model.embed_dim * (share.residual_parts > 1)
    working = {"one layer at work": HALF * share.tokens * (wide + narrow)}
    if share.rings is not None:
        return working | {"gradients of a chunk": FULL * share.chunk_slots * share.layer_weights}
    return working | {
        "gradients, float32": buffers.gradients * FULL * share.stored_weights,
        "gathered weights of layers at work": buffers.weights * HALF * share.layer_weights,
    }

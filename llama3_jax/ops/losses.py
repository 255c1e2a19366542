"""Next-token cross-entropy over a large vocabulary, chunked over tokens and split over the mesh.

Full logits `[B, S, V]` are never alive: a scan computes one chunk's logits, its loss and, when differentiating, its
gradients at once, so the backward pass recomputes nothing and keeps only dx and dW. The vocabulary stays split over the
mesh: a chunk's logits exist once in the whole system. Hidden states come split along the sequence as the residual
stream is, and are gathered over the tensor axis a chunk at a time. Sums are returned, not means, so micro-batches and
shards add exactly. Everything after the matmul is float32, and dW is summed over chunks and devices in float32,
straight into the shape in which the head is stored.
"""

import jax
import jax.numpy as jnp

from llama3_jax.core.sharding import Layout
from llama3_jax.parallel.manual import manual
from llama3_jax.parallel.moves import add_parts, gather_parts, reduce_gradient, split_sequence, use_weight

Sums = dict[str, jax.Array]
NUM_SUMS = 4  # total, nll, z, correct


def next_token_loss(
    x_BRD: jax.Array,
    head_DV: jax.Array,
    targets_BS: jax.Array,
    weights_BS: jax.Array,
    *,
    chunk: int,
    z_loss: float = 0.0,
    layout: Layout = Layout(),
) -> tuple[jax.Array, Sums]:
    """Weighted sums of the cross-entropy of `targets_BS` under softmax(x_BRD · head_DV).

    Args:
      x_BRD: final hidden states in the compute dtype. head_DV: output head as stored, any float dtype; it is multiplied
        in x's dtype. targets_BS: int32 token ids. weights_BS: float32, 0 where a token does not count.
      chunk: tokens whose logits are alive at once, per group of devices that split the vocabulary. z_loss: weight of
        logsumexp² (0 turns it off).
      layout: how the arrays are split over the mesh.

    Returns:
      (loss_sum, sums): loss_sum = Σ w·(nll + z_loss·lse²), the only differentiable output; sums hold float32 scalars
      `nll`, `z`, `correct` (weighted count of argmax hits) and `tokens` = Σ w.
    """
    x_BRD = x_BRD if layout.local else layout.place(x_BRD, "BRD")
    total, nll, z, correct = _loss(x_BRD, head_DV, targets_BS, weights_BS, chunk, z_loss, layout)
    sums = {"nll": nll, "z": z, "correct": correct, "tokens": jnp.sum(weights_BS.astype(jnp.float32))}
    return total, jax.tree.map(jax.lax.stop_gradient, sums)


def _loss_alone(x_BRD, head_DV, targets_BS, weights_BS, chunk, z_loss, layout):
    def local(x_BRD, head_DV, targets_BR, weights_BR):
        def body(sums, inputs):
            chunk_sums, _ = _chunk_loss(_gather(inputs, layout), head_DV, z_loss, layout)
            return _add(sums, chunk_sums), None

        sums, _ = jax.lax.scan(body, _zeros(), _chunks(x_BRD, targets_BR, weights_BR, chunk, layout))
        return _add_over(sums, layout.token_axes)

    run = manual(local, layout, _input_specs(layout), (layout.used(""),) * NUM_SUMS)
    return run(*_inputs(x_BRD, head_DV, targets_BS, weights_BS, layout))


def _loss_forward(x_BRD, head_DV, targets_BS, weights_BS, chunk, z_loss, layout):
    """The loss and, as residuals, its gradients: dx like x, dW float32 and split as the head is stored."""

    def local(x_BRD, head_DV, targets_BR, weights_BR):
        def body(carry, inputs):
            sums, dw_DV = carry
            x_CD, *_ = inputs = _gather(inputs, layout)
            chunk_sums, dlogits_CV = _chunk_loss(inputs, head_DV, z_loss, layout)
            dlogits_CV = dlogits_CV.astype(x_CD.dtype)
            dx_CD = jnp.einsum("CV,DV->CD", dlogits_CV, head_DV, preferred_element_type=jnp.float32)
            dw_DV += jnp.einsum("CD,CV->DV", x_CD, dlogits_CV, preferred_element_type=jnp.float32)
            return (_add(sums, chunk_sums), dw_DV), _scatter(dx_CD, layout).astype(x_CD.dtype)

        start = (_zeros(), jnp.zeros(head_DV.shape, jnp.float32))
        (sums, dw_DV), dx = jax.lax.scan(body, start, _chunks(x_BRD, targets_BR, weights_BR, chunk, layout))
        dx_BRD = dx.reshape(-1, x_BRD.shape[-1])[: x_BRD.shape[0] * x_BRD.shape[1]].reshape(x_BRD.shape)
        return *_add_over(sums, layout.token_axes), dx_BRD, reduce_gradient(layout, dw_DV, "DV")

    outputs = (layout.used(""),) * NUM_SUMS + (layout.used("BRD"), layout.stored("DV"))
    run = manual(local, layout, _input_specs(layout), outputs)
    *sums, dx_BRD, dw_DV = run(*_inputs(x_BRD, head_DV, targets_BS, weights_BS, layout))
    return tuple(sums), (dx_BRD, dw_DV.astype(head_DV.dtype))


def _loss_backward(chunk, z_loss, layout, residuals, cotangents):
    del chunk, z_loss, layout
    dx_BRD, dw_DV = residuals
    g = cotangents[0]
    return (dx_BRD * g.astype(dx_BRD.dtype), dw_DV * g.astype(dw_DV.dtype), None, None)


_loss = jax.custom_vjp(_loss_alone, nondiff_argnums=(4, 5, 6))
_loss.defvjp(_loss_forward, _loss_backward)


def _chunk_loss(inputs, head_DV, z_loss, layout):
    """One chunk's four sums and the gradient of their total with respect to its logits, float32 `[C, V]`.

    `inputs` are its tokens' hidden states, targets and weights. `head_DV` may be one device's part of the vocabulary;
    sums are then completed over the devices that hold the others.
    """
    vocab_axes = layout.split_axes("V")
    x_CD, targets_C, weights_C = inputs
    logits_CV = jnp.einsum("CD,DV->CV", x_CD, head_DV, preferred_element_type=jnp.float32)
    max_C = _max_over(jnp.max(logits_CV, axis=-1), vocab_axes)
    exp_CV = jnp.exp(logits_CV - max_C[:, None])
    sum_C = _add_over(jnp.sum(exp_CV, axis=-1), vocab_axes)
    lse_C = max_C + jnp.log(sum_C)
    hit_CV = (targets_C - _first_token(logits_CV.shape[-1], vocab_axes))[:, None] == jnp.arange(logits_CV.shape[-1])[
        None
    ]
    target_C = _add_over(jnp.sum(jnp.where(hit_CV, logits_CV, 0.0), axis=-1), vocab_axes)
    counts_C = weights_C != 0
    nll = jnp.sum(jnp.where(counts_C, (lse_C - target_C) * weights_C, 0.0))
    z = jnp.sum(jnp.where(counts_C, jnp.square(lse_C) * weights_C, 0.0))
    correct = jnp.sum(jnp.where(counts_C & (target_C >= max_C), weights_C, 0.0))
    scale_C = (1.0 + 2.0 * z_loss * lse_C) / sum_C
    dlogits_CV = (exp_CV * scale_C[:, None] - hit_CV) * weights_C[:, None]
    return (nll + z_loss * z, nll, z, correct), jnp.where(counts_C[:, None], dlogits_CV, 0.0)


def _chunks(x_BRD, targets_BR, weights_BR, chunk, layout):
    """All tokens of this device in rows, the last one padded with tokens of weight 0.

    Rows of one group of tensor ranks, gathered, make `chunk` tokens.
    """
    num_tokens = x_BRD.shape[0] * x_BRD.shape[1]
    row = min(max(1, chunk // layout.num_devices(layout.sequence_parallel_axes)), num_tokens)
    pad = -num_tokens % row
    x_TD = jnp.pad(x_BRD.reshape(num_tokens, -1), ((0, pad), (0, 0)))
    targets_T = jnp.pad(targets_BR.reshape(-1), (0, pad))
    weights_T = jnp.pad(weights_BR.reshape(-1).astype(jnp.float32), (0, pad))
    return x_TD.reshape(-1, row, x_TD.shape[-1]), targets_T.reshape(-1, row), weights_T.reshape(-1, row)


def _inputs(x_BRD, head_DV, targets_BS, weights_BS, layout):
    """The arguments where the loss wants them: the head whole but for the vocabulary, tokens as the residual stream."""
    head_DV = use_weight(layout, head_DV.astype(x_BRD.dtype), "DV")
    targets_BR, weights_BR = (split_sequence(layout, x_BS, "BR") for x_BS in (targets_BS, weights_BS))
    return x_BRD, head_DV, targets_BR, weights_BR


def _input_specs(layout):
    return (layout.used("BRD"), layout.used("DV"), layout.used("BR"), layout.used("BR"))


def _gather(inputs, layout):
    return tuple(gather_parts(layout, x, letters) for x, letters in zip(inputs, ("RD", "R", "R"), strict=True))


def _scatter(dx_CD, layout):
    """The sum of dx over the parts of the vocabulary, each device keeping the tokens it brought."""
    return add_parts(layout, dx_CD, layout.split_axes("V"), "RD")


def _zeros():
    return (jnp.zeros((), jnp.float32),) * NUM_SUMS


def _add(left, right):
    return jax.tree.map(jnp.add, left, right)


def _add_over(tree, axes):
    return jax.lax.psum(tree, axes) if axes else tree


def _max_over(x, axes):
    return jax.lax.pmax(x, axes) if axes else x


def _first_token(local_vocab, axes):
    return jax.lax.axis_index(axes) * local_vocab if axes else 0

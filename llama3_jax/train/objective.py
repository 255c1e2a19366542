"""The pre-training objective: next-token cross-entropy under a document mask."""

from collections.abc import Callable
from typing import Any

import jax

from llama3_jax.model.llama import Llama
from llama3_jax.ops.attention import AttentionMask
from llama3_jax.ops.losses import next_token_loss
from llama3_jax.parallel.balance import INDEX


def make_next_token_objective(z_loss: float = 0.0) -> Callable[[Llama, Any], tuple[jax.Array, dict[str, jax.Array]]]:
    """`loss_fn(model, batch) -> (loss_sum, sums)` for `make_train_step`.

    A micro-batch holds `tokens`, `targets`, `segment_ids`, `positions` (int32 `[B, S]`) and `loss_weights` (float32, 0
    where a token has no target). Tokens see only their own document: segment ids, 0 being padding. Where a split by
    document cost has moved tokens, `index` says where they were.
    """

    def loss_fn(model: Llama, batch):
        segments_BS = batch["segment_ids"]
        mask = AttentionMask(query_segment_ids_BS=segments_BS, query_index_BS=batch.get(INDEX))
        x_BRD = model.hidden(batch["tokens"], batch["positions"], mask)
        return next_token_loss(
            x_BRD,
            model.output_head(),
            batch["targets"],
            batch["loss_weights"],
            chunk=model.compute.loss_chunk,
            z_loss=z_loss,
            layout=model.layout,
        )

    return loss_fn

"""What a step minimises.

An `Objective` is a loss function cut in two where the layers are: what goes into them, and what is made of what comes
out. Called as a whole it is the step's `loss_fn(model, batch) -> (loss_sum, sums)`; a pipeline runs its halves on their
own. Pre-training, SFT, reward modelling and DPO are objectives.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from llama3_jax.model.llama import Llama
from llama3_jax.ops.attention import AttentionMask
from llama3_jax.ops.losses import Sums, next_token_loss
from llama3_jax.parallel.balance import INDEX
from llama3_jax.train.step import Batch

ModelInputs = tuple[jax.Array, jax.Array, AttentionMask]  # tokens and positions, int32 [B, S], and who sees whom


@dataclasses.dataclass(frozen=True)
class Objective:
    """`loss_fn(model, batch) -> (loss_sum, sums)` in two halves; sums are float32 and add up over rows and tokens.

    inputs: batch -> the model's inputs. loss: (model, final hidden states [B, R, D], batch) -> (loss_sum, sums).
    """

    inputs: Callable[[Batch], ModelInputs]
    loss: Callable[[Any, jax.Array, Batch], tuple[jax.Array, Sums]]

    def __call__(self, model: Llama, batch: Batch) -> tuple[jax.Array, Sums]:
        """Loss sum and sums of a micro-batch."""
        return self.loss(model, model.hidden(*self.inputs(batch)), batch)


def make_next_token_objective(z_loss: float = 0.0) -> Objective:
    """Next-token cross-entropy under a document mask, the objective of pre-training.

    A micro-batch holds `tokens`, `targets`, `segment_ids`, `positions` (int32 `[B, S]`) and `loss_weights` (float32, 0
    where a token has no target). Tokens see only their own document: segment ids, 0 being padding. Where a split by
    document cost has moved tokens, `index` says where they were.
    """

    def inputs(batch: Batch) -> ModelInputs:
        mask = AttentionMask(query_segment_ids_BS=batch["segment_ids"], query_index_BS=batch.get(INDEX))
        return batch["tokens"], batch["positions"], mask

    def loss(model: Llama, x_BRD: jax.Array, batch: Batch) -> tuple[jax.Array, Sums]:
        return next_token_loss(
            x_BRD,
            model.output_head(),
            batch["targets"],
            batch["loss_weights"],
            chunk=model.compute.loss_chunk,
            z_loss=z_loss,
            layout=model.layout,
        )

    return Objective(inputs, loss)

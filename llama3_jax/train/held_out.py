"""Held-out loss on text the model never trains on, per token and per byte."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from llama3_jax.core.params import Params
from llama3_jax.core.sharding import batch_sharding
from llama3_jax.data.packing import sequential_rows
from llama3_jax.data.token_store import TokenStore

BATCH_TOKENS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """Sums over the text that was read. A token that starts a document is not predicted and not counted."""

    nll: float  # nats
    tokens: int
    bytes: int  # UTF-8 bytes of the predicted tokens

    @property
    def per_token(self) -> float:
        """Mean cross-entropy in nats per token."""
        return self.nll / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Compressed size in bits per byte of text: comparable between tokenizers."""
        return self.nll / math.log(2) / self.bytes


def make_held_out(
    sums_of: Callable[[Params, Mapping[str, jax.Array]], Mapping[str, jax.Array]],
    mesh: Mesh,
    token_bytes_V: np.ndarray,
    split: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict,
) -> Callable[[Params, Iterator[Mapping[str, np.ndarray]]], HeldOutLoss]:
    """`evaluate(params, batches)`: sums the `nll` of `sums_of(params, rows)` over batches of `[B, S]` host arrays.

    `token_bytes_V` holds the number of UTF-8 bytes of each token (0 for special tokens). Rows are padded to a multiple
    of the mesh's batch split with rows that count nothing. `split` orders rows as the mesh splits them.
    """
    multiple = math.prod(mesh.shape[axis] for axis in ("data", "fsdp"))
    sharding = batch_sharding(mesh, 2)

    nll_of = jax.jit(lambda params, batch: sums_of(params, batch)["nll"])

    def place(rows):
        rows = np.pad(rows, ((0, -len(rows) % multiple), (0, 0)))
        return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

    def evaluate(params: Params, batches) -> HeldOutLoss:
        nll, tokens, num_bytes = [], 0, 0
        with jax.set_mesh(mesh):
            for batch in batches:
                nll.append(nll_of(params, {name: place(rows) for name, rows in split(batch).items()}))
                counted = batch["targets"][batch["loss_weights"] > 0]
                tokens += counted.size
                num_bytes += int(token_bytes_V[counted].sum())
        if not tokens:
            raise ValueError("the held-out text has no token to predict")
        return HeldOutLoss(nll=float(np.sum(jax.device_get(nll), dtype=np.float64)), tokens=tokens, bytes=num_bytes)

    return evaluate


def held_out_batches(
    store: TokenStore, sequence_length: int, rows: int | None = None
) -> Iterator[Mapping[str, np.ndarray]]:
    """Host batches `[B, S]` over a whole store, or over its first `rows` rows rounded up to whole batches."""
    size = max(1, BATCH_TOKENS // sequence_length)
    return itertools.islice(sequential_rows(store, sequence_length, batch_rows=size), rows and -(-rows // size))

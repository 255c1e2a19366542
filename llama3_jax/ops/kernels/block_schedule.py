"""Which blocks of the score matrix an attention kernel must visit, read from the mask before the kernel runs.

Packed documents make most blocks empty (§3.2 masks attention between documents), and a causal mask empties those above
the diagonal. The answer errs towards visiting: the kernel still masks inside a block.

Letters beyond the project's: I query blocks, J key blocks.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.ops.attention_mask import AttentionMask, positions, segment_ids


def seen_blocks(
    mask: AttentionMask, num_queries: int, num_keys: int, blocks: tuple[int, int]
) -> np.ndarray | jax.Array:
    """Bool [I, J]: false where no query of block I, in any row of the batch, sees a key of block J.

    `blocks` = (queries, keys) per block divide S and T. A NumPy array where the mask is known at compile time (plainly
    causal or open), else a traced one.
    """
    queries, keys = num_queries // blocks[0], num_keys // blocks[1]
    seen_IJ = np.ones((queries, keys), bool)
    ordered = mask.query_index_BS is None and mask.key_index_BT is None
    if mask.causal and ordered:
        latest_I = (np.arange(queries) + 1) * blocks[0] - 1
        seen_IJ = np.arange(keys)[None, :] * blocks[1] <= latest_I[:, None]
    terms = []
    if mask.causal and not ordered:
        query_BS, key_BT = positions(mask, num_queries, num_keys)
        latest_BI = jnp.max(query_BS.reshape(-1, queries, blocks[0]), axis=2)
        earliest_BJ = jnp.min(key_BT.reshape(-1, keys, blocks[1]), axis=2)
        terms.append(earliest_BJ[:, None, :] <= latest_BI[:, :, None])
    if ids := segment_ids(mask):
        low_BI, high_BI = _extent(ids[0], queries)
        low_BJ, high_BJ = _extent(ids[1], keys)
        terms.append((low_BI[:, :, None] <= high_BJ[:, None, :]) & (low_BJ[:, None, :] <= high_BI[:, :, None]))
    if not terms:
        return seen_IJ
    seen_BIJ = terms[0] if len(terms) == 1 else terms[0] & terms[1]
    return jnp.any(seen_BIJ, axis=0) & seen_IJ


def block_bounds(seen_IJ: np.ndarray | jax.Array) -> tuple[np.ndarray | jax.Array, np.ndarray | jax.Array]:
    """First seen block of each row and one past the last, int32 [I]; both 0 for a row without any."""
    numpy = np if isinstance(seen_IJ, np.ndarray) else jnp
    any_I = numpy.any(seen_IJ, axis=1)
    first_I = numpy.argmax(seen_IJ, axis=1)
    stop_I = numpy.where(any_I, seen_IJ.shape[1] - numpy.argmax(seen_IJ[:, ::-1], axis=1), 0)
    return first_I.astype(np.int32), stop_I.astype(np.int32)


def _extent(ids_BS: jax.Array, num_blocks: int) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest document number in each block, padding apart; an empty range for a block of padding."""
    ids_BIC = ids_BS.reshape(ids_BS.shape[0], num_blocks, -1)
    largest = jnp.iinfo(ids_BS.dtype).max
    return jnp.min(jnp.where(ids_BIC == 0, largest, ids_BIC), axis=2), jnp.max(ids_BIC, axis=2)

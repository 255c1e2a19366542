"""A random number of each document that is the same for ever: what sampling uses, so that no order matters."""

from collections.abc import Sequence

import numpy as np

from llama3_jax.curation.hashing import mix64, salted
from llama3_jax.curation.identity import ID_BYTES


def id_words(ids: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """Documents' ids (bytes, or uint8 [D, 16]) as numbers in the same order, uint64 [D, 2].

    Raises ValueError for ids of another length.
    """
    data = ids.tobytes() if isinstance(ids, np.ndarray) else b"".join(ids)
    if len(data) != ID_BYTES * len(ids):
        raise ValueError(f"{len(ids)} ids have {len(data)} bytes rather than {ID_BYTES} each")
    return np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)


def draws(ids: Sequence[bytes] | np.ndarray, seed: int) -> np.ndarray:
    """uint64 [D], uniform, from each document's id and the seed alone."""
    words = id_words(ids)
    return salted(mix64(words[:, 0]) ^ words[:, 1], np.array([seed], np.uint64))


def is_drawn(numbers: np.ndarray, shares: np.ndarray | float) -> np.ndarray:
    """bool [D]: True for a `shares` (0 to 1) part of draws; what one share takes, a larger one takes too."""
    return (numbers >> np.uint64(11)).astype(np.float64) < np.asarray(shares) * 2.0**53

"""Which documents to ask about: as many from every stratum of a cheap score, and which of them, their ids decide.

A corpus is mostly middling; a sample in its proportions teaches a classifier little about the rest. Nothing here
depends on the order of the documents or on how they were split: strata are quantiles of all scores, and a document is
taken for the hash of its id.
"""

import bisect
import hashlib
from collections.abc import Sequence

import numpy as np


def sample_hash(identity: bytes, salt: str) -> int:
    """64 bits by which documents are drawn; another `salt` draws others."""
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8, key=salt.encode()[:64]).digest(), "big")


def strata_of(scores: np.ndarray, num_strata: int) -> np.ndarray:
    """The stratum of each document, int64: equal shares by score, ties together; the last for no score (NaN)."""
    scores = np.asarray(scores, np.float64)
    strata = np.full(len(scores), num_strata, np.int64)
    known = np.isfinite(scores)
    ordered = np.sort(scores[known])
    if len(ordered):
        strata[known] = np.searchsorted(ordered, scores[known], side="left") * num_strata // len(ordered)
    return strata


def choose(ids: Sequence[bytes], scores: np.ndarray, count: int, *, num_strata: int = 10, salt: str = "") -> np.ndarray:
    """Indices of `count` documents, in the order of their hashes: equally many of each stratum, as far as it has them.

    Of documents with the same id one is taken. What small strata lack is taken from the others. All documents, when
    there are fewer. Raises ValueError for counts that are not positive.
    """
    if count < 1 or num_strata < 1:
        raise ValueError(f"count and num_strata must be positive, got {count} and {num_strata}")
    if len(ids) != len(scores):
        raise ValueError(f"{len(ids)} ids have {len(scores)} scores")
    hashes = np.array([sample_hash(identity, salt) for identity in ids], np.uint64)
    first = _first_of_each(ids)
    strata = strata_of(np.asarray(scores)[first], num_strata)
    order = first[np.lexsort((hashes[first], strata))]
    sizes = np.bincount(strata, minlength=num_strata + 1)
    starts = np.cumsum(sizes) - sizes
    takes = _shares(sizes, count)
    chosen = np.concatenate([order[start : start + take] for start, take in zip(starts, takes, strict=True)])
    return chosen[np.argsort(hashes[chosen], kind="stable")]


def _first_of_each(ids: Sequence[bytes]) -> np.ndarray:
    seen: dict[bytes, int] = {}
    for index, identity in enumerate(ids):
        seen.setdefault(identity, index)
    return np.fromiter(seen.values(), np.int64, len(seen))


def _shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """How many of each stratum: a level up to which all are filled, the rest from the first that have more."""
    count = min(count, int(sizes.sum()))
    levels = range(int(sizes.max(initial=0)) + 1)
    level = bisect.bisect_right(levels, count, key=lambda level: int(np.minimum(sizes, level).sum())) - 1
    takes = np.minimum(sizes, level)
    left = count - int(takes.sum())
    takes[np.flatnonzero(sizes > level)[:left]] += 1
    return takes

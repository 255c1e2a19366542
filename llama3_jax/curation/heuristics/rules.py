"""Rules: bounds on scores with a reason each, applied to columns. Pure, so decisions can be made again at any time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.annotations import Scores

MAX_RULES = 64  # bits of a mask


class Rule(NamedTuple):
    """A document fails it where `score` is below `low` or above `high`; a score that is NaN fails nothing."""

    name: str
    score: str
    low: float
    high: float
    reason: str


class Failures(NamedTuple):
    """What failed, for each document."""

    mask: np.ndarray  # uint64 [D]: bit i is set where rule i failed
    first: np.ndarray  # int64 [D]: the first rule that failed, in the declared order; -1 where none did


def failed(scores: Scores, rules: Sequence[Rule]) -> Failures:
    """Applies rules in order. Raises ValueError for more than 64, and for a score that is not there."""
    if len(rules) > MAX_RULES:
        raise ValueError(f"there are {len(rules)} rules, at most {MAX_RULES} fit a mask")
    missing = sorted({rule.score for rule in rules} - set(scores))
    if missing:
        raise ValueError(f"rules need the scores {', '.join(missing)}, which are not there")
    size = len(next(iter(scores.values()), ()))
    mask, first = np.zeros(size, np.uint64), np.full(size, -1)
    for i, rule in enumerate(rules):
        fails = (scores[rule.score] < rule.low) | (scores[rule.score] > rule.high)
        mask |= fails.astype(np.uint64) << np.uint64(i)
        first[fails & (first < 0)] = i
    return Failures(mask, first)


def reasons(failures: Failures, rules: Sequence[Rule]) -> np.ndarray:
    """The reason of the first rule that failed, "" where none did: str [D]."""
    names = np.array([rule.reason for rule in rules] + [""])
    return names[failures.first]

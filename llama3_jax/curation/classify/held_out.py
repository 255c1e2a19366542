"""How well a classifier does on texts that it has not seen."""

from collections.abc import Sequence

import numpy as np

from llama3_jax.curation.classify.linear import LinearClassifier


def area_under_curve(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """The odds that a positive example scores higher than a negative one, ties counted half; NaN without both kinds."""
    num_positive = int(is_positive.sum())
    num_negative = is_positive.size - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    twice_ranks = 2 * np.cumsum(counts) - counts + 1
    twice_sum = int(twice_ranks[places[is_positive]].sum())
    return (twice_sum - num_positive * (num_positive + 1)) / (2 * num_positive * num_negative)


def measure(model: LinearClassifier, texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """`accuracy`, and `auc.LABEL` of each label against all others. A text without words scores 0 on all."""
    scores = np.nan_to_num(model.scores(texts), nan=0.0)
    known = np.array(labels, dtype=str)
    guessed = np.array(model.labels, dtype=str)[scores.argmax(axis=1)]
    found = {"accuracy": float((guessed == known).mean()) if known.size else float("nan")}
    for place, label in enumerate(model.labels):
        found[f"auc.{label}"] = area_under_curve(scores[:, place], known == label)
    return found

"""How well scores tell good documents from bad: ranking and decisions, counted in whole documents."""

import numpy as np


def score_of(outputs: np.ndarray) -> np.ndarray:
    """One number per document, float64 `[n]`, from a classifier's outputs `[n, L]`.

    Of a regression its output; of classes the expected class, which for two is the probability of the second.
    """
    outputs = np.asarray(outputs, np.float64)
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    exp = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return exp @ np.arange(outputs.shape[1]) / exp.sum(axis=1)


def area_under_curve(positive: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive document scores above a negative one, ties counted half; NaN without one of each."""
    positive = np.asarray(positive, bool)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    twice_ranks = (2 * np.cumsum(counts) - counts + 1)[place]  # twice the mean rank of equal scores: an integer
    twice_wins = int(twice_ranks[positive].sum()) - num_positive * (num_positive + 1)
    return twice_wins / (2 * num_positive * num_negative)


def evaluate_scores(outputs: np.ndarray, labels: np.ndarray, positive_from: float) -> dict[str, float]:
    """Held-out measures of outputs `[n, L]` against labels `[n]`; a document is good from `positive_from` on.

    `auc` of the scores; `accuracy`, `precision`, `recall` and `f1` of the decision by score; `squared_error` of a
    regression, or `exact` for classes, the share whose likeliest class is the label.
    """
    labels, scores = np.asarray(labels, np.float64), score_of(outputs)
    good, taken = labels >= positive_from, scores >= positive_from
    hits = int((good & taken).sum())
    measures = {
        "auc": area_under_curve(good, scores),
        "accuracy": float((good == taken).mean()),
        "precision": hits / max(1, int(taken.sum())),
        "recall": hits / max(1, int(good.sum())),
        "f1": 2 * hits / max(1, int(taken.sum()) + int(good.sum())),
    }
    if outputs.shape[1] == 1:
        return measures | {"squared_error": float(np.mean((scores - labels) ** 2))}
    return measures | {"exact": float((np.argmax(outputs, axis=1) == labels).mean())}

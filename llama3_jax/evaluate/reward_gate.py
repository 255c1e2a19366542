"""Whether a cheaper way to compute a model has left its answers as good: rewards of many answers, compared (6.2).

Benchmarks did not show what FP8 without a bound did to Llama 3: now and then an answer was corrupted. The paper
therefore compares the distributions of a reward model's scores over 100,000 answers. Three things are compared here:
the distributions as a whole (the largest difference of their empirical distribution functions, Kolmogorov and Smirnov),
their means, and how many answers score below nearly all of the reference's, where rare corruptions show first.

The gate fails when one of them is both larger than it may be and more than chance: noise does not fail it, and many
answers do not make it fail for a difference that nobody minds. It refuses to pass on too few answers.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from llama3_jax.core.paths import path_of

Answers = Sequence[Any] | np.ndarray  # texts, rows of tokens, whatever the reward takes
Reward = Callable[[Any], Sequence[float] | np.ndarray]  # answers -> a score each; higher is better


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What is allowed. The defaults need 13,246 answers of each kind."""

    max_distance: float = 0.02  # of the distribution functions
    max_shift: float = 0.05  # of the means, in standard deviations of the reference
    low: float = 0.01  # share of the reference's answers that count as low
    max_low: float = 0.02  # share of the candidate's answers that may score as low as those
    significance: float = 0.01  # differences that chance makes more often than this do not count

    def __post_init__(self):
        if not (0 < self.max_distance < 1 and self.max_shift > 0 and 0 < self.significance < 1):
            raise ValueError(f"the gate needs shares between 0 and 1 and a positive max_shift, got {self}")
        if not 0 < self.low <= self.max_low < 1:
            raise ValueError(f"the gate needs 0 < low <= max_low < 1, got {self.low} and {self.max_low}")

    @property
    def min_answers(self) -> int:
        """Answers of each kind from which on a distance beyond `max_distance` is more than chance."""
        return math.ceil(-math.log(self.significance / 2) / self.max_distance**2)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sets of scores, and how far apart they are."""

    reference: np.ndarray
    candidate: np.ndarray
    distance: float  # of the distribution functions, 0 to 1
    distance_p: float  # the chance of such a distance between samples of one distribution
    shift: float  # of the mean, in standard deviations of the reference; negative is worse
    shift_p: float
    low_share: float  # of candidates that score as the lowest `low` of the reference
    low_p: float
    config: GateConfig

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate fails; empty when it passes."""
        c, found = self.config, []
        if self.distance > c.max_distance and self.distance_p < c.significance:
            found.append(f"the distributions differ by {self.distance:.3f}, more than {c.max_distance:g}")
        if abs(self.shift) > c.max_shift and self.shift_p < c.significance:
            found.append(f"the mean moved by {self.shift:+.3f} standard deviations, more than {c.max_shift:g}")
        if self.low_share > c.max_low and self.low_p < c.significance:
            lowest = f"as low as the reference's lowest {c.low:.1%}"
            found.append(f"{self.low_share:.1%} of the answers score {lowest}, more than {c.max_low:.1%}")
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether nothing is amiss."""
        return not self.reasons

    def __str__(self):
        c = self.config
        return (
            f"{len(self.candidate):,} answers against {len(self.reference):,}: distance {self.distance:.4f} "
            f"(p {self.distance_p:.2g}, at most {c.max_distance:g}), shift {self.shift:+.4f} (p {self.shift_p:.2g}, at "
            f"most {c.max_shift:g}), low {self.low_share:.2%} (p {self.low_p:.2g}, at most {c.max_low:.2%}): "
            f"{'passed' if self.passed else 'failed, ' + '; '.join(self.reasons)}"
        )


def reward_gate(
    reward: Reward, reference: Answers, candidate: Answers, config: GateConfig = GateConfig()
) -> Comparison:
    """Scores two sets of answers and compares them, e.g. those of a model in bf16 and in FP8 to the same prompts.

    Raises ValueError for what `compare_scores` refuses, and when `reward` does not give a score per answer.
    """
    return compare_scores(_scores(reward, reference), _scores(reward, candidate), config)


def _scores(reward: Reward, answers: Answers) -> np.ndarray:
    scores = np.asarray(reward(answers), np.float64)
    if scores.shape != (len(answers),):
        raise ValueError(f"the reward gave scores of shape {scores.shape} to {len(answers)} answers")
    return scores


def compare_scores(
    reference: Sequence[float] | np.ndarray,
    candidate: Sequence[float] | np.ndarray,
    config: GateConfig = GateConfig(),
) -> Comparison:
    """Compares two sets of scores. Raises ValueError for scores that are not finite or too few to tell anything."""
    left, right = (np.sort(np.asarray(scores, np.float64)) for scores in (reference, candidate))
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("a score is not finite; an answer without a score cannot be left out")
    # Of unequal sets the smaller counts for more: what matters is n m / (n + m), half of n where they are equal.
    effective = len(left) * len(right) / max(1, len(left) + len(right))
    if 2 * effective < config.min_answers:
        raise ValueError(
            f"{len(left)} and {len(right)} answers cannot tell a distance of {config.max_distance:g} from chance; it "
            f"takes {config.min_answers} of each"
        )
    test: Any = scipy.stats.ks_2samp(left, right, method="asymp")
    shift, shift_p = _shift(left, right)
    low_share, low_p = _low(left, right, config.low)
    return Comparison(left, right, float(test.statistic), float(test.pvalue), shift, shift_p, low_share, low_p, config)


def draw(comparison: Comparison, path: str, names: tuple[str, str] = ("bf16", "fp8")) -> None:
    """Draws both histograms over each other into a PNG at `path`, as the paper does."""
    both = np.concatenate([comparison.reference, comparison.candidate])
    first, last = np.quantile(both, [0.001, 0.999])
    edges = np.linspace(first, last, 81)
    figure = Figure(figsize=(8, 4), layout="constrained", dpi=120)
    axes = figure.subplots()
    for scores, name, color in zip(
        (comparison.reference, comparison.candidate), names, ("tab:blue", "tab:orange"), strict=True
    ):
        shown = np.clip(scores, edges[0], edges[-1])  # what lies outside is counted in the outermost bins
        axes.hist(shown, edges, weights=np.full(len(shown), 1 / len(shown)), alpha=0.5, color=color, label=name)
    axes.set_xlabel("reward")
    axes.set_ylabel("share of answers")
    axes.set_title(
        f"distance {comparison.distance:.4f}, shift {comparison.shift:+.4f}, low {comparison.low_share:.2%}: "
        f"{'passed' if comparison.passed else 'failed'}",
        fontsize=9,
    )
    axes.legend(frameon=False)
    with path_of(path).open("wb") as file:
        figure.savefig(file, format="png")


def _shift(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Difference of the means in standard deviations of the first, and its chance (Welch's test)."""
    difference, spread = float(right.mean() - left.mean()), float(left.std())
    if not left.std() and not right.std():  # scores that never vary: any difference is one
        return (math.copysign(math.inf, difference), 0.0) if difference else (0.0, 1.0)
    test: Any = scipy.stats.ttest_ind(left, right, equal_var=False)
    return (difference / spread if spread else math.copysign(math.inf, difference)), float(test.pvalue)


def _low(left: np.ndarray, right: np.ndarray, low: float) -> tuple[float, float]:
    """Share of the second that scores as the lowest `low` of the first, and the chance that it is so many.

    With ties at the limit the share of the first counts as what it is.
    """
    limit = left[math.ceil(low * len(left)) - 1]
    expected, share = (float((scores <= limit).mean()) for scores in (left, right))
    pooled = (expected * len(left) + share * len(right)) / (len(left) + len(right))
    error = math.sqrt(pooled * (1 - pooled) * (1 / len(left) + 1 / len(right)))
    return share, float(scipy.stats.norm.sf((share - expected) / error)) if share > expected else 1.0

"""What a document must be to stay: limits on scores, applied at the end and changed without computing a score again."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.heuristics.rules import Rule, failed, reasons
from llama3_jax.curation.heuristics.thresholds import DEFAULTS, KINDS, LANGUAGES, rules_for
from llama3_jax.curation.lines import LineRule

Bounds = tuple[float | None, float | None]
"""(lowest, highest) score that stays; None is no limit."""
# Domains on lists, adult text, texts full of personal data. The paper names what is dropped and no number.
EARLY: Mapping[str, Bounds] = {
    "listed_domain": (None, 0.0),
    "adult_density": (None, 0.02),
    "adult_url_words": (None, 1.0),
    "pii_density": (None, 10.0),
}


BUILT_IN = frozenset(DEFAULTS).union(*KINDS.values(), *LANGUAGES.values())
"""The scores that have limits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """The limits. `early` ones come before deduplication: what they drop does not compete for its URL or its text."""

    early: Mapping[str, Bounds] = dataclasses.field(default_factory=lambda: dict(EARLY))
    bounds: Mapping[str, Bounds] = dataclasses.field(default_factory=dict)  # instead of the built-in ones, or more
    without: tuple[str, ...] = ()  # built-in rules to leave out
    code_page: float = 0.3  # score from which the rules for code count; comments and docstrings are no lines of code
    math_page: float = 0.3
    reasoning_page: float = 0.5
    lines: LineRule = dataclasses.field(default_factory=LineRule)
    drop_c4_lines: bool = False
    mask_pii: bool = True
    min_chars: int = 100  # of what is left of a text

    def __post_init__(self):
        if unknown := set(self.without) - BUILT_IN:
            raise ValueError(f"without: there is no built-in rule {min(unknown)!r}")
        if self.min_chars < 1:
            raise ValueError(f"min_chars must be positive, got {self.min_chars}")
        for name, (low, high) in [*self.early.items(), *self.bounds.items()]:
            if low is not None and high is not None and low > high:
                raise ValueError(f"the bounds of {name} leave nothing: {low} to {high}")


def rule(name: str, bounds: Bounds) -> Rule:
    """A rule named after its score."""
    low, high = bounds
    return Rule(name, name, -math.inf if low is None else low, math.inf if high is None else high, name)


def early_rules(config: RulesConfig) -> tuple[Rule, ...]:
    """The rules that come before deduplication."""
    return tuple(rule(name, bounds) for name, bounds in config.early.items())


def late_rules(config: RulesConfig, language: str, kind: str) -> tuple[Rule, ...]:
    """The rules of documents of a language and a kind of page."""
    built_in = rules_for(language, kind, frozenset([*config.without, *config.bounds]))
    return built_in + tuple(rule(name, bounds) for name, bounds in config.bounds.items())


def page_kinds(scores: Scores, config: RulesConfig) -> np.ndarray:
    """ "web", "code" or "math" for each document, str [D]."""
    code, formulas = scores["code_page"] >= config.code_page, scores["math_page"] >= config.math_page
    return np.where(code, "code", np.where(formulas, "math", "web"))


def late_reasons(scores: Scores, languages: np.ndarray, kinds: np.ndarray, config: RulesConfig) -> np.ndarray:
    """The name of the first rule that each document fails, "" for none: str [D]."""
    found = np.zeros(len(languages), dtype="U64")
    for language, kind, rows in _alike(languages, kinds):
        rules = late_rules(config, language, kind)
        needed = {each.score: scores[each.score][rows] for each in rules if each.score in scores}
        if rules:
            found[rows] = reasons(failed(needed, rules), rules)
    return found


def _alike(languages: np.ndarray, kinds: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    pairs: Sequence[tuple[str, str]] = sorted(set(zip(languages.tolist(), kinds.tolist(), strict=True)))
    for language, kind in pairs:
        yield language, kind, np.flatnonzero((languages == language) & (kinds == kind))

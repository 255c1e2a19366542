"""Bounds of the rules: defaults, what is different for a language, and what is different for pages of code and math.

Where they come from: repetition and lengths, Rae et al. 2021 (table A1 and A.1.1); sentences and boilerplate, Raffel et
al. 2020 (2.2); line lengths and letters of code, the filters of public collections of code. The paper states no
threshold of its own for any of them; the divergence's, the dirty words' and those of formulas are ours.
"""

import math
from collections.abc import Mapping

from llama3_jax.curation.heuristics.rules import Rule

Bounds = tuple[float, float]

_ANY = (-math.inf, math.inf)
_NO = lambda *names: dict.fromkeys(names, _ANY)
_most = lambda high: (-math.inf, high)
_least = lambda low: (low, math.inf)

# rule = score -> bounds, in the order in which reasons are given.
DEFAULTS: Mapping[str, Bounds] = {
    # Gopher: is it text?
    "words": (50, 100_000),
    "mean_word_chars": (3, 10),
    "hashes_per_word": _most(0.1),
    "ellipses_per_word": _most(0.1),
    "bullet_lines": _most(0.9),
    "ellipsis_lines": _most(0.3),
    "alphabetic_tokens": _least(0.8),
    "stop_words": _least(2),
    # Gopher: does it repeat itself?
    "duplicate_lines": _most(0.3),
    "duplicate_paragraphs": _most(0.3),
    "duplicate_line_chars": _most(0.2),
    "duplicate_paragraph_chars": _most(0.2),
    "top_2gram": _most(0.2),
    "top_3gram": _most(0.18),
    "top_4gram": _most(0.16),
    "duplicate_5gram": _most(0.15),
    "duplicate_6gram": _most(0.14),
    "duplicate_7gram": _most(0.13),
    "duplicate_8gram": _most(0.12),
    "duplicate_9gram": _most(0.11),
    "duplicate_10gram": _most(0.1),
    # C4: sentences, boilerplate.
    "c4_sentences": _least(3),
    "lorem_ipsum": _most(0),
    "curly_brackets": _most(0),
    # Llama 3: dirty words, outliers among tokens.
    "dirty_words": _most(10),
    "dirty_word_share": _most(0.02),
    "kl_excess": _most(3.5),
    # Dumps, on any page.
    "blob_chars": _most(0.2),
    "math_remains": _most(0.1),
}

_NGRAMS = tuple(name for name in DEFAULTS if name.endswith("gram"))

# What is different for a language: German compounds are longer words; Hindi, Portuguese and Spanish have more short
# ones. In Thai a word is one letter with its marks, about a third of what a reader calls a word: lengths mean something
# else, short n-grams are syllables, and a space, not a mark, ends a sentence.
LANGUAGES: Mapping[str, Mapping[str, Bounds]] = {
    "en": {},
    "de": {"mean_word_chars": (3, 14)},
    "fr": {},
    "it": {},
    "pt": {"mean_word_chars": (2.5, 10)},
    "hi": {"mean_word_chars": (2, 10)},
    "es": {"mean_word_chars": (2.5, 10)},
    "th": {
        "words": (150, 300_000),
        "alphabetic_tokens": _least(0.6),
        "duplicate_10gram": _most(0.3),
        **_NO("mean_word_chars", *(name for name in _NGRAMS if name != "duplicate_10gram"), "c4_sentences"),
    },
}
_OTHER_LANGUAGE = _NO("stop_words")  # there is no list of them

_CODE_LINES: Mapping[str, Bounds] = {
    "longest_line_chars": _most(1000),
    "mean_line_chars": _most(100),
    "alnum_chars": _least(0.25),
    "generated_markers": _most(0),
    "hex_words": _most(0.3),
}
# What is different, or more, for pages of a kind.
KINDS: Mapping[str, Mapping[str, Bounds]] = {
    "web": {},
    "code": {
        **_NO("hashes_per_word", "ellipses_per_word", "bullet_lines", "stop_words", "c4_sentences", "curly_brackets"),
        **_NO("top_2gram", "top_3gram", "top_4gram", "mean_word_chars", "kl_excess"),
        "words": (10, 100_000),
        "alphabetic_tokens": _least(0.3),
        "duplicate_lines": _most(0.5),
        "duplicate_line_chars": _most(0.4),
        **{name: _most(2.5 * DEFAULTS[name][1]) for name in _NGRAMS if name.startswith("duplicate")},
        **_CODE_LINES,
    },
    "math": {
        **_NO("hashes_per_word", "curly_brackets", "mean_word_chars", "kl_excess"),
        "words": (20, 100_000),
        "alphabetic_tokens": _least(0.4),
        "c4_sentences": _least(1),
        **{name: _most(2 * DEFAULTS[name][1]) for name in _NGRAMS},
        "digit_chars": _most(0.5),
        "math_remains": _most(0.02),
    },
}


def thresholds(language: str, kind: str = "web") -> dict[str, Bounds]:
    """score -> (low, high) for documents of a language and a kind of page; any language without a row has defaults.

    Where both change a bound, the looser side counts. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    of_language, of_kind = LANGUAGES.get(language, _OTHER_LANGUAGE), KINDS[kind]
    bounds = {**DEFAULTS, **of_language, **of_kind}
    for name in of_language.keys() & of_kind.keys() & DEFAULTS.keys():
        (low, high), (other_low, other_high) = of_language[name], of_kind[name]
        bounds[name] = (min(low, other_low), max(high, other_high))
    return bounds


def rules_for(language: str, kind: str = "web", without: frozenset[str] = frozenset()) -> tuple[Rule, ...]:
    """The rules of `thresholds`, in order; those that bound nothing, or whose score is in `without`, are left out."""
    bounds = thresholds(language, kind)
    return tuple(
        Rule(name, name, low, high, reason=name)
        for name, (low, high) in bounds.items()
        if (low, high) != _ANY and name not in without
    )

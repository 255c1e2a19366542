"""Downsampling of kinds of knowledge that the web has too much of, such as arts and entertainment (Llama 3, 3.1.2).

A category per document comes from a classifier (`linear.py`, trained on the user's examples). Three steps, of which the
first adds up over any division of the corpus: tokens per category -> which share of each category's documents stays ->
each document's draw against its category's share.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from llama3_jax.curation.classify.draws import draws, is_drawn


def category_tokens(
    categories: Sequence[str] | np.ndarray, token_counts: Sequence[int] | np.ndarray
) -> collections.Counter[str]:
    """Tokens per category of some documents; the Counters of parts of a corpus add up to the corpus's."""
    names, places = np.unique(np.asarray(categories, dtype=str), return_inverse=True)
    totals = np.zeros(names.size, np.int64)
    np.add.at(totals, places, np.asarray(token_counts, np.int64))
    return collections.Counter(dict(zip(names.tolist(), totals.tolist(), strict=True)))


def keep_rates(tokens: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, float]:
    """The share of each category's documents to keep so that the tokens kept have the `shares` of categories.

    A category without a share is kept whole and takes what part is left. Nothing is repeated: a category that has too
    few tokens for its share is kept whole as well, and the others are cut to their shares of what that leaves. The
    most that can be kept is kept.

    Raises ValueError for a share outside (0, 1], for shares that exceed 1, and for shares below 1 if every category
    has one.
    """
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise ValueError(f"shares: {name} is to have {share} of the tokens, which is not in (0, 1]")
    total = sum(shares.values())
    whole = sum(count for name, count in tokens.items() if name not in shares)
    if total > 1 + 1e-9 or (total < 1 - 1e-9 and not whole):
        raise ValueError(f"shares: they sum to {total}" + ("" if whole else ", and no other category takes the rest"))
    kept = _kept_total({name: tokens.get(name, 0) for name in shares}, shares, whole)
    rates = dict.fromkeys(tokens, 1.0)
    for name in shares.keys() & tokens.keys():
        rates[name] = min(1.0, shares[name] * kept / tokens[name]) if tokens[name] else 1.0
    return rates


def _kept_total(tokens: Mapping[str, int], shares: Mapping[str, float], whole: int) -> float:
    """The largest total N of which N = whole + sum of min(tokens, share * N) over the categories with a share."""
    # Below its limit tokens / share a category is cut, above it is whole: the total is linear between limits.
    limits = sorted(((tokens[name] / shares[name], name) for name in shares if tokens[name]), reverse=True)
    cut_share = sum(shares[name] for _, name in limits)
    if not whole and cut_share >= 1 - 1e-9 and limits:
        return limits[-1][0]
    for limit, name in reversed(limits):  # the smallest limit first: the first category to be whole
        total = whole / (1 - cut_share) if cut_share < 1 else float("inf")
        if total <= limit:
            return total
        whole += tokens[name]
        cut_share -= shares[name]
    return float(whole)


def downsample(
    categories: Sequence[str] | np.ndarray,
    ids: Sequence[bytes] | np.ndarray,
    rates: Mapping[str, float],
    *,
    seed: int = 0,
) -> np.ndarray:
    """Which documents stay, bool [D]: each has the odds `rates` gives its category, by its id alone.

    Raises ValueError for a category without a rate.
    """
    names, places = np.unique(np.asarray(categories, dtype=str), return_inverse=True)
    if missing := sorted(set(names.tolist()) - rates.keys()):
        raise ValueError(f"rates: none for the categories {missing}")
    return is_drawn(draws(ids, seed), np.array([rates[name] for name in names.tolist()], np.float64)[places])

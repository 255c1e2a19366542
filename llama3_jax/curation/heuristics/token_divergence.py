"""How far a document's tokens are from the corpus's: Kullback-Leibler divergence, made comparable over lengths (3.1.1).

Two passes. The first counts tokens: whole numbers, so partitions' counts add up to the same sums in any order. The
second scores documents by D(document || corpus). Plain divergence is largest for the shortest documents, which cannot
show the corpus's variety; so what a document of that many tokens drawn from the corpus would have on average, and some
standard deviations of it, are taken off:

    excess(d) = D(d || q) - E D(q_n || q) - margin * sd(-log q) / sqrt(n)

Tokens are buckets of hashed words, or a tokenizer's ids. Sums are of whole numbers (fixed point), so that they are the
same for any cut of the corpus into batches.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.heuristics.segments import segment_sums

_POINT = 1 << 24  # one nat, in fixed point
_LENGTHS = 2.0 ** np.arange(0, 32.5, 0.5)  # where the expectation is tabled
ANY_LANGUAGE = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivergenceConfig:
    """How many tokens there are and how the corpus's distribution is smoothed (pseudo-counts for each token)."""

    num_tokens: int = 1 << 16
    smoothing: float = 0.1
    margin: float = 2.0
    min_corpus_tokens: int = 100_000  # a language with fewer is scored against the whole corpus

    def __post_init__(self):
        if self.num_tokens < 2:
            raise ValueError(f"num_tokens must be at least 2, got {self.num_tokens}")
        if not self.smoothing > 0:
            raise ValueError(f"smoothing must be positive, got {self.smoothing}")
        if not self.margin >= 0:
            raise ValueError(f"margin must be at least 0, got {self.margin}")


def word_buckets(hashes: np.ndarray, num_tokens: int) -> np.ndarray:
    """The bucket of each word, int64 in [0, num_tokens), by the upper half of its hash uint64."""
    return ((hashes >> np.uint64(32)) * np.uint64(num_tokens) >> np.uint64(32)).astype(np.int64)


def count_tokens(
    tokens: np.ndarray, splits: np.ndarray, languages: Sequence[str], num_tokens: int
) -> dict[str, np.ndarray]:
    """language -> int64 [num_tokens] counts of a batch, and ANY_LANGUAGE -> those of all; add them up over batches.

    `tokens` int64 [tokens]; document d has tokens[splits[d]:splits[d + 1]].
    """
    number = {language: i for i, language in enumerate(sorted(set(languages)))}
    of_document = np.array([number[language] for language in languages], np.int64)
    keys = np.repeat(of_document, np.diff(splits)) * num_tokens + tokens
    counts = np.bincount(keys, minlength=len(number) * num_tokens).reshape(len(number), num_tokens)
    return {ANY_LANGUAGE: counts.sum(axis=0)} | {language: counts[i] for language, i in number.items()}


def add_counts(total: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sum of two results of `count_tokens`."""
    languages = sorted({*total, *more})
    return {language: sum(part[language] for part in (total, more) if language in part) for language in languages}  # pyright: ignore[reportReturnType]


class TokenDivergence:
    """Scores documents against a corpus."""

    def __init__(self, counts: Mapping[str, np.ndarray], config: DivergenceConfig):
        """`counts` as of `count_tokens`, summed. Raises ValueError for another vocabulary or none of all texts."""
        for language, found in counts.items():
            if found.shape != (config.num_tokens,):
                raise ValueError(f"counts[{language!r}] has {found.shape} entries, num_tokens is {config.num_tokens}")
        enough = {name: c for name, c in counts.items() if name == ANY_LANGUAGE or c.sum() >= config.min_corpus_tokens}
        if ANY_LANGUAGE not in enough:
            raise ValueError("counts must have those of the whole corpus, under ANY_LANGUAGE")
        self.config = config
        self._corpora = {language: _Corpus.of(found, config) for language, found in enough.items()}

    def scores(self, tokens: np.ndarray, splits: np.ndarray, languages: Sequence[str]) -> Scores:
        """`kl` and `kl_excess` in nats [documents]; NaN for documents without tokens. Arguments of `count_tokens`."""
        names = sorted(self._corpora)
        number = {name: i for i, name in enumerate(names)}
        used = np.array([number.get(name, number[ANY_LANGUAGE]) for name in languages], np.int64)
        size = np.diff(splits)
        surprise = segment_sums(self._surprise_of(tokens, used, size, names), splits)
        repetition = _sums_of_c_log_c(tokens, splits, self.config.num_tokens)
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence = (surprise + repetition) / _POINT / size - np.log(size)
        expected = np.full(size.size, np.nan)
        for i, name in enumerate(names):
            mine = (used == i) & (size > 0)
            expected[mine] = self._corpora[name].expected(size[mine], self.config.margin)
        return {"kl": divergence, "kl_excess": divergence - expected}

    def _surprise_of(self, tokens: np.ndarray, used: np.ndarray, size: np.ndarray, names: list[str]) -> np.ndarray:
        """Of each token, in the corpus that its document uses, int64 [tokens]."""
        present = np.flatnonzero(np.bincount(used, minlength=len(names))).tolist()
        if len(present) == 1:
            return np.take(self._corpora[names[present[0]]].surprise, tokens)
        surprise, used_by = np.empty(tokens.size, np.int64), np.repeat(used, size)
        for i in present:
            mine = np.flatnonzero(used_by == i)
            surprise[mine] = self._corpora[names[i]].surprise[tokens[mine]]
        return surprise


@dataclasses.dataclass(frozen=True)
class _Corpus:
    surprise: np.ndarray  # int64 [num_tokens]: -log q in fixed point
    divergence: np.ndarray  # float64 [len(_LENGTHS)]: of a document drawn from the corpus, on average
    deviation: float  # standard deviation of -log q

    @classmethod
    def of(cls, counts: np.ndarray, config: DivergenceConfig) -> "_Corpus":
        q = (counts + config.smoothing) / (counts.sum() + config.smoothing * counts.size)
        surprise = -np.log(q)
        entropy = float(q @ surprise)
        deviation = float(np.sqrt(max(q @ surprise**2 - entropy**2, 0.0)))
        different, bucket = np.unique(q, return_inverse=True)  # far fewer than buckets: most words are rare
        drawn = np.array([_expected_c_log_c(n * different)[bucket].sum() / n - np.log(n) for n in _LENGTHS])
        return cls(np.round(surprise * _POINT).astype(np.int64), drawn + entropy, deviation)

    def expected(self, size: np.ndarray, margin: float) -> np.ndarray:
        mean = np.interp(np.log2(size), np.log2(_LENGTHS), self.divergence)
        return mean + margin * self.deviation / np.sqrt(size)


def _sums_of_c_log_c(tokens: np.ndarray, splits: np.ndarray, num_tokens: int) -> np.ndarray:
    """The sum of c log c over the different tokens of each document, c their counts; fixed point, int64 [documents]."""
    kind = np.uint32 if splits.size * num_tokens < 1 << 32 else np.int64  # the shorter ones sort in half the time
    keys = np.repeat(np.arange(splits.size - 1, dtype=kind) * kind(num_tokens), np.diff(splits))
    keys += tokens.astype(kind, copy=False)
    keys.sort()
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: keys.size])
    counts = np.diff(np.append(starts, keys.size))
    table = np.arange(counts.max(initial=1) + 1, dtype=np.float64)
    table[1:] *= np.log(table[1:])
    values = np.round(table * _POINT).astype(np.int64)[counts]
    return segment_sums(values, np.searchsorted(starts, splits))


def _expected_c_log_c(mean: np.ndarray) -> np.ndarray:
    """E[c log c] for c of a Poisson distribution: by a table of E / mean for small means, by its series for large."""
    small = mean < _MEANS[-1]
    tabled = mean * np.interp(np.log(np.maximum(mean, 1e-300)), np.log(_MEANS), _table())
    tiny = mean < _MEANS[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        series = mean * np.log(mean) + 0.5 + 1 / (12 * mean)
    return np.where(tiny, mean**2 * np.log(2), np.where(small, tabled, series))


_MEANS = np.logspace(-4, 2, 601)


@functools.cache
def _table() -> np.ndarray:
    """E[c log c] / mean at `_MEANS`, summed over c up to where nothing is left."""
    c = np.arange(2, 300.0)
    log_factorial = np.cumsum(np.log(np.arange(1, 300.0)))[1:]
    weights = np.exp(c * np.log(_MEANS)[:, None] - _MEANS[:, None] - log_factorial)
    return weights @ (c * np.log(c)) / _MEANS

"""The definitions of repetition in plain Python, one document at a time: what the vectorised ones are held against."""

from collections import Counter
from collections.abc import Sequence


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def characters(words: Sequence[str]) -> int:
    return sum(map(len, words))


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def duplicated_dclm(words: Sequence[str], n: int, text_chars: int) -> float:
    """Characters of words inside any repeated n-gram, overlaps once, of the characters of all words."""
    grams = ngrams(words, n)
    count = Counter(grams)
    covered = {i + k for i, gram in enumerate(grams) if count[gram] > 1 for k in range(n)}
    return share(sum(len(words[i]) for i in covered), characters(words))


def duplicated_dolma(words: Sequence[str], n: int, text_chars: int) -> float:
    """Characters of repeated n-grams of the characters of all n-grams, overlaps as often as they occur."""
    count = Counter(ngrams(words, n))
    repeated = sum(c * characters(gram) for gram, c in count.items() if c > 1)
    return share(repeated, sum(c * characters(gram) for gram, c in count.items()))


def duplicated_curator(words: Sequence[str], n: int, text_chars: int) -> float:
    """Characters in second and later copies with the spaces between their words, overlaps once, of the whole text."""
    seen, duplicated, counted = set(), 0, 0
    for gram in ngrams(words, n):
        if gram in seen:
            duplicated += characters(gram[counted:]) + min(n - counted, n - 1)
            counted = n
        seen.add(gram)
        counted = max(counted - 1, 0)
    return share(duplicated, text_chars)


def duplicated_datatrove(words: Sequence[str], n: int, text_chars: int) -> float:
    """Characters in copies met while walking, each copy walked over at once, of the whole text."""
    seen, duplicated, i = set(), 0, 0
    while i <= len(words) - n:
        gram = tuple(words[i : i + n])
        if gram in seen:
            duplicated += characters(gram)
            i += n
        else:
            seen.add(gram)
            i += 1
    return share(duplicated, text_chars)


def top_dclm(words: Sequence[str], n: int, text_chars: int) -> float:
    count = Counter(ngrams(words, n))
    most = max(count.values(), default=0)
    if most < 2:
        return 0.0
    longest = max(characters(gram) for gram, c in count.items() if c == most)
    return share(most * longest, characters(words))


def top_dolma(words: Sequence[str], n: int, text_chars: int) -> float:
    gram, most = first_most_common(words, n)
    return share(most * characters(gram), characters(words))


def top_datatrove(words: Sequence[str], n: int, text_chars: int) -> float:
    gram, most = first_most_common(words, n)
    return share(most * len(" ".join(gram)), text_chars)


def top_curator(words: Sequence[str], n: int, text_chars: int) -> float:
    """Its copies that do not overlap, as a text replacement from the left would find them."""
    gram, _ = first_most_common(words, n)
    copies, i = 0, 0
    while gram and i <= len(words) - n:
        found = tuple(words[i : i + n]) == gram
        copies += found
        i += n if found else 1
    return share(copies * len(" ".join(gram)), text_chars)


def first_most_common(words: Sequence[str], n: int) -> tuple[tuple[str, ...], int]:
    return next(iter(Counter(ngrams(words, n)).most_common(1)), ((), 0))


DUPLICATED = {
    "rae_dclm": duplicated_dclm,
    "rae_dolma": duplicated_dolma,
    "rae_curator": duplicated_curator,
    "rae_datatrove": duplicated_datatrove,
}
TOP = {"rae_dclm": top_dclm, "rae_dolma": top_dolma, "rae_curator": top_curator, "rae_datatrove": top_datatrove}


def duplicate_segments(segments: Sequence[str], *, all_copies: bool) -> tuple[float, int]:
    """Share of lines or paragraphs that are duplicates, and characters in them; with or without the first copy."""
    count = Counter(segments)
    copies = {segment: c if all_copies else c - 1 for segment, c in count.items() if c > 1}
    return share(sum(copies.values()), len(segments)), sum(len(segment) * c for segment, c in copies.items())

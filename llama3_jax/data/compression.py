"""How well two tokenizers compress the same text, source by source (paper §3.2: 3.17 -> 3.94 characters a token)."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from llama3_jax.data.sources import batches
from llama3_jax.data.tokenizer import Tokenizer, replace_surrogates

TOTAL = "all"


@dataclasses.dataclass
class Encoded:
    """What a tokenizer made of a text: its tokens, and the documents whose bytes do not come back from them."""

    tokens: int = 0
    broken: int = 0

    def add(self, tokenizer: Tokenizer, contents: list[bytes], encoded: list[np.ndarray]) -> None:
        self.tokens += sum(ids.size for ids in encoded)
        self.broken += sum(tokenizer.decode_bytes(ids) != text for ids, text in zip(encoded, contents, strict=True))


@dataclasses.dataclass
class Compression:
    """Size of one source, and what the old and the new tokenizer make of it."""

    source: str
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    old: Encoded = dataclasses.field(default_factory=Encoded)
    new: Encoded = dataclasses.field(default_factory=Encoded)

    @property
    def change_percent(self) -> float:
        """By how many percent more text a token of the new tokenizer holds."""
        return 100 * (self.old.tokens / self.new.tokens - 1)

    def to_json(self) -> dict[str, Any]:
        """All of it by name, with characters and bytes a token."""
        content: dict[str, Any] = dataclasses.asdict(self) | {"change_percent": round(self.change_percent, 4)}
        for side in ("old", "new"):
            tokens = content[side]["tokens"]
            content[side]["characters_per_token"] = round(self.characters / tokens, 6)
            content[side]["bytes_per_token"] = round(self.bytes / tokens, 6)
        return content


@dataclasses.dataclass(frozen=True)
class Vocabularies:
    """Learned tokens of both tokenizers: how many, how many in both, with the same id, and never used in the text."""

    old: int
    new: int
    shared: int
    same_id: int
    old_unused: int
    new_unused: int
    added_unused: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Sources in the order they were read, their sum, and the vocabularies."""

    sources: list[Compression]
    total: Compression
    vocabularies: Vocabularies

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json.dump` writes."""
        return {
            "sources": [source.to_json() for source in self.sources],
            "total": self.total.to_json(),
            "vocabularies": dataclasses.asdict(self.vocabularies),
        }


def compare_tokenizers(
    documents: Iterable[tuple[str, str]],
    old: Tokenizer,
    new: Tokenizer,
    *,
    num_threads: int | None = None,
    on_progress: Callable[[int], object] = lambda num_bytes: None,
) -> Comparison:
    """Encodes `documents`, pairs of (source, text), with both tokenizers and decodes them again.

    No special tokens are added. A document is broken if its bytes do not come back; lone surrogates, which have no
    bytes, are U+FFFD on both sides. `on_progress` is told bytes. Raises ValueError if there is no text.
    """
    found: dict[str, Compression] = {}
    old_used, new_used = (np.zeros(tokenizer.vocab_size, bool) for tokenizer in (old, new))
    for name, raw in batches(documents):
        texts = [replace_surrogates(text) for text in raw]
        contents = [text.encode() for text in texts]
        row = found.setdefault(name, Compression(name))
        row.documents += len(texts)
        row.characters += sum(map(len, texts))
        row.bytes += sum(map(len, contents))
        for side, tokenizer, seen in ((row.old, old, old_used), (row.new, new, new_used)):
            encoded = tokenizer.encode_batch(texts, num_threads=num_threads)
            side.add(tokenizer, contents, encoded)
            seen[np.concatenate(encoded)] = True
        on_progress(sum(map(len, contents)))
    rows = [row for row in found.values() if row.characters]
    if not rows:
        raise ValueError("there is no text to compare the tokenizers on")
    return Comparison(rows, _total(rows), _vocabularies(old, new, old_used, new_used))


def format_comparison(comparison: Comparison) -> str:
    """The comparison as a table for people."""
    rows = [*comparison.sources, comparison.total]
    width = max(len("source"), *(len(row.source) for row in rows))
    head = f"{'source':<{width}}  {'MB':>8}  {'characters/token':>18}  {'bytes/token':>18}  {'change':>8}  round trip"
    lines = [head, f"{'':<{width}}  {'':>8}  {'old':>8}{'new':>10}  {'old':>8}{'new':>10}"]
    for row in rows:
        rates = [size / side.tokens for size in (row.characters, row.bytes) for side in (row.old, row.new)]
        broken = row.old.broken + row.new.broken
        lines.append(
            f"{row.source:<{width}}  {row.bytes / 1e6:8.3f}  {rates[0]:8.3f}{rates[1]:10.3f}  {rates[2]:8.3f}"
            f"{rates[3]:10.3f}  {row.change_percent:+7.1f}%  {f'{broken} broken' if broken else 'whole'}"
        )
    words = comparison.vocabularies
    return "\n".join(
        [
            *lines,
            "",
            f"learned tokens: old {words.old:,}, new {words.new:,}; in both {words.shared:,}, "
            f"with the same id {words.same_id:,}",
            f"never used in this text: old {words.old_unused:,}, new {words.new_unused:,}, "
            f"of those only in new {words.added_unused:,}",
        ]
    )


def _total(rows: list[Compression]) -> Compression:
    def add(name: str) -> int:
        return sum(getattr(row, name) for row in rows)

    old, new = (
        Encoded(sum(side.tokens for side in sides), sum(side.broken for side in sides))
        for sides in zip(*((row.old, row.new) for row in rows), strict=True)
    )
    return Compression(TOTAL, add("documents"), add("characters"), add("bytes"), old, new)


def _vocabularies(old: Tokenizer, new: Tokenizer, old_used: np.ndarray, new_used: np.ndarray) -> Vocabularies:
    old_ids = {token: rank for rank, token in enumerate(old.learned_tokens)}
    new_tokens = new.learned_tokens
    shared = [(old_ids[token], rank) for rank, token in enumerate(new_tokens) if token in old_ids]
    added = np.array([token not in old_ids for token in new_tokens])
    unused = ~new_used[: len(new_tokens)]
    return Vocabularies(
        old=len(old_ids),
        new=len(new_tokens),
        shared=len(shared),
        same_id=sum(first == second for first, second in shared),
        old_unused=int((~old_used[: len(old_ids)]).sum()),
        new_unused=int(unused.sum()),
        added_unused=int((unused & added).sum()),
    )

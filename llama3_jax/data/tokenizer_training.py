"""Makes a tokenizer from counted words: a new one, or one that keeps every token of another (paper §3.2).

What comes out is a table of ranks, which is all that tiktoken needs. Its encoder joins any two neighbours that make a
token, lowest rank first, and knows nothing of pairs; the ranks encode as the learned merges do because every new token
is, in every context, made from the one pair it was learned from (see `llama3_jax.data.bpe` for the exception).
"""

import dataclasses
from collections.abc import Callable, Iterable

from llama3_jax.data.bpe import EncodedWords, Learned, learn_merges
from llama3_jax.data.tokenizer import NUM_SPECIAL, Tokenizer, single_bytes
from llama3_jax.data.word_counts import CountConfig, WordTable, count_corpus


@dataclasses.dataclass(frozen=True)
class Growth:
    """A tokenizer and how it came about: the number of tokens it kept and what was learned after them."""

    tokenizer: Tokenizer
    num_frozen: int
    learned: Learned


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learns a BPE vocabulary of `vocab_size` tokens, the 256 special ones included (4096 = 3840 learned + 256).

    Deterministic; runs in this process alone. A pair must occur twice to be merged. Raises ValueError if `vocab_size`
    is below 512 (256 bytes and 256 special tokens), if the corpus is empty, or if it is too small to reach the size.
    """
    if isinstance(texts, str):
        raise ValueError("texts must be an iterable of strings, one per document, not one string")
    check_size(bytes_only(), vocab_size)
    table = count_corpus((("corpus", text) for text in texts), CountConfig(num_workers=1))
    growth = grow_tokenizer(bytes_only(), table, vocab_size=vocab_size)
    check_reached(growth.tokenizer, vocab_size)
    return growth.tokenizer


def bytes_only() -> Tokenizer:
    """The smallest tokenizer, of single bytes: what a new one is grown from."""
    return Tokenizer({byte: rank for rank, byte in enumerate(single_bytes())})


def first_tokens(tokenizer: Tokenizer, num_tokens: int) -> Tokenizer:
    """The tokenizer of the `num_tokens` learned tokens with the lowest ids, for example cl100k's first 100,000."""
    if not 256 <= num_tokens <= tokenizer.num_bpe_tokens:
        raise ValueError(f"num_tokens must be from 256 to {tokenizer.num_bpe_tokens}, got {num_tokens}")
    return Tokenizer({token: rank for rank, token in enumerate(tokenizer.learned_tokens[:num_tokens])})


def check_size(start: Tokenizer, vocab_size: int) -> None:
    """ValueError unless `vocab_size`, special tokens included, has room for all tokens of `start`."""
    if vocab_size < start.vocab_size:
        parts = f"{start.num_bpe_tokens} {'bytes' if start.num_bpe_tokens == 256 else 'tokens'}"
        raise ValueError(
            f"vocab_size must be at least {start.vocab_size} ({parts} and {NUM_SPECIAL} special tokens), "
            f"got {vocab_size}"
        )


def check_reached(tokenizer: Tokenizer, vocab_size: int) -> None:
    """ValueError, with the size that was reached, unless it is `vocab_size`."""
    if tokenizer.vocab_size < vocab_size:
        raise ValueError(
            f"the corpus is too small: it gives {tokenizer.vocab_size} tokens of the {vocab_size} asked for"
        )


def grow_tokenizer(
    start: Tokenizer,
    table: WordTable,
    *,
    vocab_size: int,
    min_count: int = 2,
    on_progress: Callable[[int], object] = lambda learned: None,
) -> Growth:
    """Adds tokens learned from `table` after those of `start`, up to `vocab_size` with the special ones.

    All tokens of `start` keep their ids; the special ones move behind the new ones. The result is smaller than asked
    for when no pair occurs `min_count` times any more. Raises ValueError if `vocab_size` has no room for `start`.
    """
    check_size(start, vocab_size)
    frozen = start.learned_tokens
    ids, lengths = start.encode_words(table.words)
    words = EncodedWords(ids, lengths, table.counts)
    num_new = vocab_size - NUM_SPECIAL - len(frozen)
    learned = learn_merges(words, frozen, num_new, min_count=min_count, on_progress=on_progress)
    tokens = frozen + learned.tokens
    return Growth(Tokenizer({token: rank for rank, token in enumerate(tokens)}), len(frozen), learned)

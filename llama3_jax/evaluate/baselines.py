"""What simple models make of the same held-out text: the yardsticks beside a language model's bits per byte.

All three predict exactly what the language model predicts: every token of a document after its first, given (for the
bigram) the token before. `xz` compresses the text itself, given nothing.
"""

import itertools
import lzma
from collections.abc import Iterator, Sequence

import numpy as np

from llama3_jax.data.token_store import TokenStore


def documents(store: TokenStore) -> Iterator[np.ndarray]:
    """Every document of a store as its token ids, BOS and EOS included, shard by shard."""
    for shard in range(len(store.manifest.shards)):
        offsets = store.document_offsets(shard)
        tokens = store.read(shard, 0, int(offsets[-1]))
        for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
            yield tokens[start:stop]


def pairs(stores: Sequence[TokenStore]) -> tuple[np.ndarray, np.ndarray]:
    """All (previous token, token) pairs within documents, two int64 arrays."""
    previous, following = [], []
    for document in itertools.chain.from_iterable(documents(store) for store in stores):
        previous.append(document[:-1].astype(np.int64))
        following.append(document[1:].astype(np.int64))
    return np.concatenate(previous), np.concatenate(following)


def unigram_bits(train: np.ndarray, held_out: np.ndarray, vocab_size: int) -> float:
    """Total bits of `held_out` tokens under add-one smoothed frequencies of `train`."""
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return float(-np.log2(counts / counts.sum())[held_out].sum())


def bigram_bits(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], vocab_size: int
) -> float:
    """Total bits of the held-out tokens under an interpolated Kneser-Ney bigram model of the training tokens.

    Kneser and Ney 1995; the discount is n1 / (n1 + 2 n2) (Ney, Essen and Kneser 1994). Every token has one continuation
    count more than was seen, so nothing has probability zero.
    """
    keys, counts = np.unique(train[0] * vocab_size + train[1], return_counts=True)
    first, second = keys // vocab_size, keys % vocab_size
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    discount = once / (once + 2 * twice) if once else 0.5
    continuation = np.bincount(second, minlength=vocab_size) + 1.0
    continuation /= continuation.sum()
    total = np.bincount(first, weights=counts, minlength=vocab_size)
    kinds = np.bincount(first, minlength=vocab_size)

    previous, following = held_out
    wanted = previous * vocab_size + following
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    seen = np.where(keys[place] == wanted, counts[place] - discount, 0.0)
    history = np.maximum(total[previous], 1.0)
    back_off = np.where(total[previous] > 0, discount * kinds[previous] / history, 1.0)
    return float(-np.log2(seen / history + back_off * continuation[following]).sum())


def xz_bits(text: bytes) -> float:
    """Bits of `text` compressed by xz at its strongest setting."""
    return 8.0 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def bits_per_byte(
    train: Sequence[TokenStore], held_out: TokenStore, token_bytes_V: np.ndarray, text: bytes
) -> dict[str, float]:
    """Bits per byte of the held-out text under each baseline, keyed by its name; without training text, under xz."""
    vocab_size, held_out_pairs = len(token_bytes_V), pairs([held_out])
    num_bytes = int(token_bytes_V[held_out_pairs[1]].sum())
    if not num_bytes:
        raise ValueError(f"{held_out.path} has no text to predict")
    table = {"xz -9e": xz_bits(text) / len(text)}
    if train:
        train_pairs = pairs(train)
        table["unigram"] = unigram_bits(train_pairs[1], held_out_pairs[1], vocab_size) / num_bytes
        table["bigram (Kneser-Ney)"] = bigram_bits(train_pairs, held_out_pairs, vocab_size) / num_bytes
    return table

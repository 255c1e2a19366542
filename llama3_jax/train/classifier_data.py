"""Labelled documents as batches: a pure function of seed and step, rows of like length together."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from llama3_jax.data.windows import WindowEncoder
from llama3_jax.train.length_buckets import bucket_of, buckets_for, padded

SORTED_BATCHES = 16  # documents for so many batches are drawn and sorted by length before they are cut into batches


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled documents. A training document is its first window; a held-out one may have several."""

    windows: Sequence[np.ndarray]
    labels: np.ndarray  # float32 [num documents]: a score, or the number of a class

    def __post_init__(self):
        if len(self.windows) != len(self.labels):
            raise ValueError(f"{len(self.windows)} documents have {len(self.labels)} labels")

    @property
    def fingerprint(self) -> str:
        """A hash of all tokens and labels in order."""
        digest = hashlib.blake2b(np.asarray(self.labels, np.float32).tobytes(), digest_size=16)
        for window in self.windows:
            digest.update(len(window).to_bytes(4, "little") + window.tobytes())
        return digest.hexdigest()


def encode_examples(encoder: WindowEncoder, texts: Sequence[str], labels: Sequence[float]) -> Examples:
    """The first window of each text with its label."""
    windows, documents = encoder.encode(texts)
    first = np.searchsorted(documents, np.arange(len(texts)))
    return Examples([windows[place] for place in first], np.asarray(labels, np.float32))


@dataclasses.dataclass(frozen=True)
class ClassifierBatches:
    """Batches of `rows` examples. Each epoch draws all of them in another order, some twice to fill the last batch."""

    examples: Examples
    rows: int
    seed: int
    max_length: int
    pad_id: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold every example once."""
        return -(-len(self.examples.labels) // self.rows)

    def epoch(self, number: int) -> np.ndarray:
        """Which examples each batch of an epoch holds: int64 `[steps_per_epoch, rows]`."""
        rng = np.random.default_rng([self.seed, number])
        order = np.resize(rng.permutation(len(self.examples.labels)), self.steps_per_epoch * self.rows)
        lengths = np.array([len(window) for window in self.examples.windows])
        group = SORTED_BATCHES * self.rows
        for start in range(0, len(order), group):
            part = order[start : start + group]
            order[start : start + group] = part[np.argsort(lengths[part], kind="stable")]
        return order.reshape(-1, self.rows)[rng.permutation(self.steps_per_epoch)]

    def batch(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """`tokens [1, B, S]`, `lengths`, `labels` and `weights` `[1, B]`: one micro-batch of these examples."""
        windows = [self.examples.windows[place] for place in places]
        width = bucket_of(max(map(len, windows)), buckets_for(self.max_length))
        tokens, lengths = padded(windows, len(windows), width, self.pad_id)
        labels = self.examples.labels[places]
        batch = {"tokens": tokens, "lengths": lengths, "labels": labels, "weights": np.ones_like(labels)}
        return {name: array[None] for name, array in batch.items()}

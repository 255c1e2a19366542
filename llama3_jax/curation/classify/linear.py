"""A linear text classifier over hashed n-grams: trained and applied in NumPy, the same bytes every time.

Softmax regression on the mean of the documents' n-grams, as fastText's classifiers are (Joulin et al. 2016) without the
rank of their hidden layer. Training runs over the documents in the order of their content's hash, whatever order they
came in, in mini-batches with AdaGrad (Duchi et al. 2011). No sum is left to BLAS or to threads, so neither the weights
nor a score depends on batches, machine load or the number of CPUs. (NumPy's exponential can differ in its last bit
between kinds of CPU.)

Letters: D documents, C classes.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse

from llama3_jax.curation.classify.features import PART_BYTES, FeatureConfig, Features, hashed_features
from llama3_jax.curation.text_batch import TextBatch

FORMAT_VERSION = 1
_ADAGRAD_START = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Features and training. Raises ValueError for what makes no sense."""

    features: FeatureConfig = FeatureConfig()
    epochs: int = 5
    batch_documents: int = 64
    learning_rate: float = 2.0  # falls linearly to 0
    l2: float = 0.0
    balanced: bool = False  # whether each class weighs as much as any other

    def __post_init__(self):
        for name in ("epochs", "batch_documents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if not self.learning_rate > 0 or self.l2 < 0:
            raise ValueError(f"learning_rate must be positive and l2 not negative: {self.learning_rate}, {self.l2}")

    def hash(self) -> str:
        """Names the configuration."""
        return hashlib.blake2b(_canonical(self).encode(), digest_size=8).hexdigest()


def _canonical(config: LinearConfig) -> str:
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


class Prediction(NamedTuple):
    """The best labels of each text, best first; also what `FastTextModel` predicts."""

    labels: np.ndarray  # int64 [D, k], indices of `labels`; -1 for a text without features
    scores: np.ndarray  # float32 [D, k], probabilities; NaN there


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearClassifier:
    """A trained model."""

    config: LinearConfig
    labels: tuple[str, ...]
    weights: np.ndarray  # float32 [2 ** bits, C]
    bias: np.ndarray  # float32 [C]

    def scores(self, texts: Sequence[str] | TextBatch) -> np.ndarray:
        """The probability of each class, float32 [D, C]; NaN for a text without features."""
        batch = texts if isinstance(texts, TextBatch) else TextBatch.of(texts)
        found = np.full((len(batch), len(self.labels)), np.nan, np.float32)
        for first, part in batch.parts(PART_BYTES):
            features = hashed_features(part, self.config.features)
            known = np.diff(features.splits) > 0
            probabilities = _softmax(_logits(features, self.weights, self.bias))
            found[first : first + len(part)][known] = probabilities[known]
        return found

    def predict(self, texts: Sequence[str] | TextBatch, k: int = 1) -> Prediction:
        """The `k` most likely classes of each text; the one that comes first among the labels wins a tie."""
        scores = self.scores(texts)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(scores, best, axis=1)
        return Prediction(np.where(np.isnan(best_scores), -1, best), best_scores)

    def save(self, path: str | Path) -> None:
        """Writes one `.npz`; the same model makes the same bytes."""
        header = {"format": FORMAT_VERSION, "config_hash": self.config.hash(), "labels": self.labels}
        text = json.dumps({**header, "config": dataclasses.asdict(self.config)}, sort_keys=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, header=np.frombuffer(text.encode(), np.uint8), weights=self.weights, bias=self.bias)
        Path(path).write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "LinearClassifier":
        """Reads what `save` wrote. Raises ValueError for another format or a configuration that was changed."""
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            weights, bias = arrays["weights"], arrays["bias"]
        if header["format"] != FORMAT_VERSION:
            raise ValueError(f"{path}: format {header['format']}, not {FORMAT_VERSION}")
        settings = header["config"]
        config = LinearConfig(**{**settings, "features": FeatureConfig(**settings["features"])})
        if config.hash() != header["config_hash"]:
            raise ValueError(f"{path}: the configuration is not the one that the model was trained with")
        if weights.shape != (1 << config.features.bits, len(header["labels"])):
            raise ValueError(f"{path}: weights {weights.shape} for {len(header['labels'])} labels")
        return cls(config=config, labels=tuple(header["labels"]), weights=weights, bias=bias)


def train(texts: Sequence[str], labels: Sequence[str], config: LinearConfig) -> LinearClassifier:
    """Trains on labelled texts, in any order.

    Raises ValueError for fewer than two classes or another number of labels than texts.
    """
    batch = TextBatch.of(texts)
    keys = [hashlib.blake2b(batch.data[a:b].tobytes(), digest_size=16).digest() for a, b in _pairs(batch.offsets)]
    return train_on_features(hashed_features(batch, config.features), keys, labels, config)


def _pairs(offsets: np.ndarray) -> zip:
    edges = offsets.tolist()
    return zip(edges[:-1], edges[1:], strict=True)


def train_on_features(
    features: Features, keys: Sequence[bytes], labels: Sequence[str], config: LinearConfig
) -> LinearClassifier:
    """Trains on features made elsewhere, batch by batch; `columns` may be a memory-mapped file.

    `keys` are hashes of the documents' contents: their order is the order of training. Documents without features
    teach nothing.
    """
    if not len(keys) == len(labels) == len(features.splits) - 1:
        raise ValueError(f"{len(keys)} keys and {len(labels)} labels for {len(features.splits) - 1} documents")
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"labels: {names} are not two classes")
    number = {name: place for place, name in enumerate(names)}
    classes = np.array([number[label] for label in labels], np.int64)
    order = np.array(sorted(range(len(keys)), key=lambda row: (keys[row], labels[row])), np.int64)
    order = order[np.diff(features.splits)[order] > 0]
    importance = np.ones(len(names), np.float32)
    if config.balanced:
        counts = np.bincount(classes[order], minlength=len(names))
        importance = (order.size / (len(names) * np.maximum(counts, 1))).astype(np.float32)
    model = _AdaGrad(1 << config.features.bits, len(names), config)
    starts = range(0, order.size, config.batch_documents)
    for epoch in range(config.epochs):
        for step, start in enumerate(starts):
            rows = order[start : start + config.batch_documents]
            model.rate = config.learning_rate * (1 - (epoch * len(starts) + step) / (config.epochs * len(starts)))
            model.step(features.rows(rows), classes[rows], importance)
    return LinearClassifier(config=config, labels=names, weights=model.weights, bias=model.bias)


class _AdaGrad:
    """Weights, and for each the sum of its squared gradients, which scales its steps down."""

    def __init__(self, num_columns: int, num_classes: int, config: LinearConfig):
        self.weights = np.zeros((num_columns, num_classes), np.float32)
        self.bias = np.zeros(num_classes, np.float32)
        self.rate = config.learning_rate
        self._squares = np.full((num_columns, num_classes), _ADAGRAD_START, np.float32)
        self._bias_squares = np.full(num_classes, _ADAGRAD_START, np.float32)
        self._l2 = config.l2
        self._place = np.zeros(num_columns, np.int32)

    def step(self, features: Features, classes: np.ndarray, importance: np.ndarray) -> None:
        """One mini-batch. Only the columns it has are touched, and only they decay."""
        present = np.zeros(self._place.size, bool)
        present[features.columns] = True
        columns = np.flatnonzero(present)
        self._place[columns] = np.arange(columns.size, dtype=np.int32)
        local = Features(self._place[features.columns], features.splits)
        weights = self.weights[columns]
        errors = _softmax(_logits(local, weights, self.bias))
        errors[np.arange(classes.size), classes] -= 1
        errors *= importance[classes][:, None] / np.float32(classes.size)
        gradient = _means(local, columns.size).T.tocsr() @ errors + self._l2 * weights
        squares = self._squares[columns] + gradient * gradient
        self._squares[columns] = squares
        self.weights[columns] = weights - np.float32(self.rate) * gradient / np.sqrt(squares)
        bias_gradient = errors.sum(axis=0)
        self._bias_squares += bias_gradient * bias_gradient
        self.bias -= np.float32(self.rate) * bias_gradient / np.sqrt(self._bias_squares)


def _means(features: Features, num_columns: int) -> scipy.sparse.csr_matrix:
    """float32 [D, num_columns]: the part of each document's n-grams that each column makes up."""
    counts = np.diff(features.splits)
    values = np.repeat((1 / np.maximum(counts, 1)).astype(np.float32), counts)
    return scipy.sparse.csr_matrix((values, features.columns, features.splits), shape=(counts.size, num_columns))


def _logits(features: Features, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return _means(features, weights.shape[0]) @ weights + bias


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

"""Scores of documents by a trained encoder: what the curation stage takes as an argument (Llama 3, 3.1)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from llama3_jax.core.params import Params, abstract_params, split_module
from llama3_jax.core.sharding import batch_sharding
from llama3_jax.data.windows import WindowEncoder
from llama3_jax.model.roberta import Roberta
from llama3_jax.train.classifier_metrics import score_of
from llama3_jax.train.length_buckets import bucketed, buckets_for

# Tokens computed at once, padding counted. On a CPU more is not faster, and what fills up the last batch of each bucket
# costs as much as what is wanted.
BATCH_TOKENS = {"cpu": 1024}
BATCH_TOKENS_ELSEWHERE = 32_768
Outputs = Callable[[Params, Sequence[np.ndarray]], np.ndarray]


def make_outputs(module: Roberta, mesh: Mesh, max_length: int, batch_tokens: int | None = None) -> Outputs:
    """`outputs(params, windows)`: float32 `[num_windows, L]` for windows of at most `max_length` tokens.

    `batch_tokens` are computed at once over the whole mesh; None is a good number for its devices. What a window gives
    does not depend on the others.
    """
    graphdef, pad_id = split_module(module)[0], module.config.pad_id
    buckets = buckets_for(max_length)
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS.get(mesh.devices.flat[0].platform, BATCH_TOKENS_ELSEWHERE * mesh.size)
    multiple = math.prod(mesh.shape[axis] for axis in ("data", "fsdp"))
    rows, lengths_only = batch_sharding(mesh, 2), batch_sharding(mesh, 1)
    run = jax.jit(lambda params, tokens, lengths: nnx.merge(graphdef, params)(tokens, lengths))

    def outputs(params: Params, windows: Sequence[np.ndarray]) -> np.ndarray:
        found = np.zeros((len(windows), module.config.num_labels), np.float32)
        running: list[tuple[np.ndarray, Any]] = []
        with jax.set_mesh(mesh):
            for places, tokens, lengths in bucketed(windows, buckets, batch_tokens, multiple, pad_id):
                out = run(params, jax.device_put(tokens, rows), jax.device_put(lengths, lengths_only))
                running.append((places, out))
        for places, out in running:
            found[places] = jax.device_get(out)[: len(places)]
        return found

    return outputs


class Scorer:
    """`scorer(texts) -> scores`: one float32 per document, the mean over the windows that are read of it."""

    def __init__(
        self, module: Roberta, params: Params, encoder: WindowEncoder, mesh: Mesh, batch_tokens: int | None = None
    ):
        """Raises ValueError when the tokenizer or its windows do not fit the model."""
        check_fits(module, encoder)
        self._encoder, self._params = encoder, params
        self._outputs = make_outputs(module, mesh, encoder.config.length, batch_tokens)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """A score per text, float32 `[len(texts)]`: see `score_of`."""
        return score_of(self.outputs(texts)).astype(np.float32)

    def outputs(self, texts: Sequence[str]) -> np.ndarray:
        """The model's outputs for each text, float32 `[len(texts), L]`: logits of classes, or a regression's value."""
        windows, documents = self._encoder.encode(texts)
        outputs = self._outputs(self._params, windows).astype(np.float64)
        starts = np.searchsorted(documents, np.arange(len(texts)))
        counts = np.bincount(documents, minlength=len(texts))[:, None]
        sums = np.add.reduceat(outputs, starts, axis=0) if len(texts) else outputs
        return (sums / counts).astype(np.float32)


def check_fits(module: Roberta, encoder: WindowEncoder) -> None:
    """Raises ValueError when a model has no place for some token or window, no head, or other ids of padding."""
    config = module.config
    if config.num_labels == 0:
        raise ValueError("the model has no head: it gives no scores before one is trained")
    if encoder.vocab_size > config.vocab_size:
        raise ValueError(f"{encoder.path} has {encoder.vocab_size} tokens, the model {config.vocab_size}")
    if encoder.config.length > config.max_length:
        raise ValueError(f"windows of {encoder.config.length} tokens; the model takes {config.max_length} at most")
    if encoder.pad_id != config.pad_id:
        raise ValueError(f"{encoder.path} pads with token {encoder.pad_id}, the model with {config.pad_id}")


def place_params(module: Roberta, params: Params, mesh: Mesh) -> Params:
    """Host arrays on `mesh`, each with the dtype and the sharding of its declaration."""

    def place(array: np.ndarray, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(np.asarray(array).astype(wanted.dtype), wanted.sharding)

    return jax.tree.map(place, params, abstract_params(module, mesh, module.layout))

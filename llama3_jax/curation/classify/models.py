"""Classifiers of either kind, told apart by their files."""

from pathlib import Path

from llama3_jax.curation.classify.fasttext import FastTextModel
from llama3_jax.curation.classify.linear import LinearClassifier


def open_model(path: str | Path) -> LinearClassifier | FastTextModel:
    """A linear classifier (`.npz`) or a fastText model. Raises what their loaders do."""
    return (LinearClassifier if Path(path).suffix == ".npz" else FastTextModel).load(path)

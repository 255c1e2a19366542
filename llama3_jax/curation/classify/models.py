"""Classifiers of either kind, told apart by their files."""

from collections.abc import Iterable
from pathlib import Path

from llama3_jax.curation.classify.fasttext import FastTextModel
from llama3_jax.curation.classify.linear import LinearClassifier


def open_model(path: str | Path) -> LinearClassifier | FastTextModel:
    """A linear classifier (`.npz`) or a fastText model. Raises what their loaders do."""
    return (LinearClassifier if Path(path).suffix == ".npz" else FastTextModel).load(path)


def check_labels(wanted: Iterable[str], model: LinearClassifier | FastTextModel, where: str) -> None:
    """Raises ValueError for the first label that the model does not have; `where` names it."""
    if unknown := sorted(set(wanted) - set(model.labels)):
        raise ValueError(f"{where} has no label {unknown[0]!r}; it has {', '.join(model.labels)}")

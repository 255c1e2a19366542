"""The features of the pipeline: what each module says of a batch, as a step of its own."""

import numpy as np

from llama3_jax.curation.classify.language import LanguageIdentifier
from llama3_jax.curation.features import Annotate, Annotated, Batch
from llama3_jax.curation.heuristics.lists import dirty_words
from llama3_jax.curation.heuristics.score import Heuristics, HeuristicsConfig
from llama3_jax.curation.steps import Task


def sizes(task: Task) -> Annotate:
    """`chars`: characters of the text."""
    return lambda batch: Annotated({"chars": batch.texts.num_chars})


def heuristics(task: Task) -> Annotate:
    """The scores of `heuristics`, and the lines that C4's rules would drop."""
    config: HeuristicsConfig
    config, (folder, _) = task.settings.settings
    score = Heuristics(config, dirty_words=tuple(dirty_words(folder)))

    def annotate(batch: Batch) -> Annotated:
        return Annotated(*score.scores(batch.texts, batch.scores["language"].tolist()))

    return annotate


def languages(task: Task) -> Annotate:
    """`language` and `language_score` by a model, or those of the settings where all documents are of one language."""
    name, (path, _) = task.settings.settings
    if name is not None:
        return lambda batch: Annotated({"language": np.full(len(batch), name), "language_score": np.ones(len(batch))})
    identifier = LanguageIdentifier.load(path)

    def annotate(batch: Batch) -> Annotated:
        return Annotated(identifier.documents([batch.texts.text(row) for row in range(len(batch))]))

    return annotate

"""The features of the pipeline: what each module says of a batch, as a step of its own."""

import itertools

import numpy as np

from llama3_jax.curation.adult import SAMPLE as ADULT_SAMPLE
from llama3_jax.curation.adult import AdultWords
from llama3_jax.curation.classify.language import LanguageIdentifier
from llama3_jax.curation.classify.models import check_labels, open_model
from llama3_jax.curation.contamination import BenchmarkIndex, find_overlap, read_benchmark
from llama3_jax.curation.domains import SAMPLE, DomainLists
from llama3_jax.curation.features import Annotate, Annotated, Batch
from llama3_jax.curation.given import read_given
from llama3_jax.curation.heuristics.lists import dirty_words
from llama3_jax.curation.heuristics.score import Heuristics, HeuristicsConfig
from llama3_jax.curation.pii import find_pii, pii_scores
from llama3_jax.curation.steps import Task


def sizes(task: Task) -> Annotate:
    """`chars`: characters of the text."""
    return lambda batch: Annotated({"chars": batch.texts.num_chars})


def heuristics(task: Task) -> Annotate:
    """The scores of `heuristics`, and the lines that C4's rules would drop."""
    config: HeuristicsConfig
    config, (path, _) = task.settings.settings
    score = Heuristics(config, dirty_words=dirty_words(path))

    def annotate(batch: Batch) -> Annotated:
        return Annotated(*score.scores(batch.texts, batch.scores["language"].tolist()))

    return annotate


def domains(task: Task) -> Annotate:
    """What lists say of a document's URL; `listed_domain` is 1 where the category is one that is dropped."""
    lists, dropped, _ = task.settings.settings
    loaded = DomainLists.load(lists or (SAMPLE,))

    def annotate(batch: Batch) -> Annotated:
        scores = loaded.scores(batch.urls)
        return Annotated({**scores, "listed_domain": np.isin(scores["domain_category"], dropped).astype(float)})

    return annotate


def adult(task: Task) -> Annotate:
    """Words of a list of adult ones, in the text and in the URL."""
    path, _ = task.settings.settings
    words = AdultWords.load(path or ADULT_SAMPLE)

    def annotate(batch: Batch) -> Annotated:
        languages = batch.scores["language"].tolist()
        return Annotated({**words.scores(batch.texts, languages), **words.url_scores(batch.urls, languages)})

    return annotate


def personal(task: Task) -> Annotate:
    """Personal identifiers: spans by kind, and how dense they are."""

    def annotate(batch: Batch) -> Annotated:
        found = find_pii(batch.texts)
        return Annotated(pii_scores(batch.texts, found), found)

    return annotate


def models(task: Task) -> Annotate:
    """The probability that each model gives to its label, under the model's name."""
    columns = []
    for name, path, label, _ in task.settings.settings:
        model = open_model(path)
        check_labels([label], model, path)
        columns.append((name, model, model.labels.index(label)))

    def annotate(batch: Batch) -> Annotated:
        texts = batch.texts.strings
        return Annotated({name: model.scores(texts)[:, place].astype(float) for name, model, place in columns})

    return annotate


def given(task: Task) -> Annotate:
    """Scores from files, by the names that the settings give them."""
    files = [(name, read_given(path)) for name, path, _ in task.settings.settings]

    def annotate(batch: Batch) -> Annotated:
        texts = batch.texts.strings
        return Annotated({name: scores.of(texts) for name, scores in files})

    return annotate


def knowledge(task: Task) -> Annotate:
    """`knowledge`: the likeliest label of a model, "" where a text says nothing."""
    model = open_model(task.settings.settings[0])
    labels = np.array([*model.labels, ""])
    return lambda batch: Annotated({"knowledge": labels[model.predict(batch.texts.strings).labels[:, 0]]})


def overlap(task: Task) -> Annotate:
    """What a document shares with benchmarks, whose training sets do not belong into training text."""
    benchmarks, _ = task.settings.settings
    index = BenchmarkIndex({name: itertools.chain(*map(read_benchmark, paths)) for name, paths in benchmarks})
    return lambda batch: Annotated(find_overlap(batch.texts, index).scores)


def languages(task: Task) -> Annotate:
    """`language` and `language_score` by a model, or those of the settings where all documents are of one language."""
    name, (path, _), config = task.settings.settings
    if name is not None:
        return lambda batch: Annotated({"language": np.full(len(batch), name), "language_score": np.ones(len(batch))})
    identifier = LanguageIdentifier.load(path, config)

    def annotate(batch: Batch) -> Annotated:
        return Annotated(identifier.documents(batch.texts.strings))

    return annotate

"""How fast are the linear classifiers, language identification and the overlap with benchmarks, and against whom?

Texts are pieces of the Python files found on this machine, so the run needs no download. Everything runs in one process
on one core, interleaved, the best of a few repetitions:

  predict     bags of words and pairs of words to a probability, against scikit-learn's HashingVectorizer with its
              LogisticRegression and, where a `fasttext` that trains is installed, fastText with two-word n-grams
  train       the same three; the task is to tell files of the standard library from files of installed packages, with
              the area under the curve of each on files that are held out
  languages   the first 500 characters of texts with lid.176.ftz, against `fasttext` where it is installed, and how far
              the scores are apart
  overlap     8-grams with a planted benchmark

Prints one JSON line to stdout and a table to stderr. MB are 10^6 bytes of text.

    python -m benchmarks.curation_classify [--megabytes 8] [--repetitions 3]
"""

import argparse
import importlib
import importlib.util
import json
import os
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llama3_jax.curation.classify.held_out import area_under_curve
from llama3_jax.curation.classify.language import LanguageIdentifier, find_language_model
from llama3_jax.curation.classify.linear import LinearConfig, train
from llama3_jax.curation.contamination import BenchmarkIndex, find_overlap
from llama3_jax.curation.text_batch import TextBatch

POSITIVE = "standard"
PIECE = 2000  # characters
LANGUAGE_CHARACTERS = 500
CLASSES = {"stdlib": POSITIVE, "purelib": "package"}  # a folder's name in sysconfig -> its label


def optional(name: str):
    """A module, or None where it is not installed."""
    return importlib.import_module(name) if importlib.util.find_spec(name.partition(".")[0]) else None


def read_pieces(num_bytes: int) -> tuple[list[str], list[str]]:
    """Pieces of Python files and their labels; files in an order that is always the same, as many of each class."""
    of_class = []
    for name in CLASSES:
        paths = sorted(Path(sysconfig.get_path(name)).rglob("*.py"))
        paths = [path for path in paths if ("site-packages" in path.parts) == (name == "purelib")]
        random.Random(0).shuffle(paths)
        of_class.append(paths)
    pieces, labels, size = [], [], 0
    for pair in zip(*of_class, strict=False):
        for path, label in zip(pair, CLASSES.values(), strict=True):
            text = path.read_text(encoding="utf-8", errors="replace")[: 10 * PIECE]
            parts = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
            pieces += parts
            labels += [label] * len(parts)
            size += len(text)
        if size > num_bytes:
            break
    return pieces, labels


def best_times(tasks: dict[str, Callable], repetitions: int) -> tuple[dict[str, float], dict]:
    """Seconds of each task, the best of interleaved repetitions, and what each returned at last."""
    seconds, results = dict.fromkeys(tasks, float("inf")), {}
    for _ in range(repetitions):
        for name, task in tasks.items():
            began = time.perf_counter()
            results[name] = task()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds, results


def sklearn_trainer(texts: list[str], labels: list[str]) -> Callable[[], Callable] | None:
    """Trains scikit-learn's; what it returns predicts."""
    extraction, linear_model = optional("sklearn.feature_extraction.text"), optional("sklearn.linear_model")
    if extraction is None or linear_model is None:
        return None

    def fit() -> Callable:
        vectorizer = extraction.HashingVectorizer(ngram_range=(1, 2), n_features=2**20, token_pattern=r"\w+")
        model = linear_model.LogisticRegression(C=10, max_iter=200).fit(vectorizer.transform(texts), labels)
        return lambda parts: model.predict_proba(vectorizer.transform(parts))[:, 1]

    return fit


def fasttext_trainer(texts: list[str], labels: list[str], folder: str) -> Callable[[], Callable] | None:
    """Trains fastText on one thread; what it returns predicts."""
    fasttext = optional("fasttext")
    if fasttext is None or not hasattr(fasttext, "train_supervised"):
        return None
    path = Path(folder) / "train.txt"
    lines = [f"__label__{label} {' '.join(text.split())}\n" for text, label in zip(texts, labels, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")

    def fit() -> Callable:
        settings = {"wordNgrams": 2, "dim": 16, "bucket": 2**20, "thread": 1, "verbose": 0, "lr": 0.5}
        model = fasttext.train_supervised(str(path), **settings)

        def predict(parts: list[str]) -> np.ndarray:
            found = [dict(zip(*model.predict(part.replace("\n", " "), k=2), strict=True)) for part in parts]
            return np.array([scores.get(f"__label__{POSITIVE}", 0.0) for scores in found])

        return predict

    return fit


def measure_classifiers(texts: list[str], labels: list[str], repetitions: int, folder: str) -> dict:
    """MB/s of training (of one pass over the data, all epochs counted in) and of predicting, and areas."""
    half = len(texts) // 2
    known, held_out = texts[:half], texts[half:]
    is_positive = np.array(labels[half:]) == POSITIVE

    def ours() -> Callable:
        model = train(known, labels[:half], LinearConfig())
        return lambda parts: model.scores(parts)[:, model.labels.index(POSITIVE)]

    trainers = {"ours": ours, "sklearn": sklearn_trainer(known, labels[:half])}
    trainers["fasttext"] = fasttext_trainer(known, labels[:half], folder)
    trainers = {name: trainer for name, trainer in trainers.items() if trainer is not None}
    train_seconds, models = best_times(trainers, 1)
    tasks = {name: lambda model=model: model(held_out) for name, model in models.items()}
    seconds, scores = best_times(tasks, repetitions)
    train_mb, mb = (sum(len(text.encode()) for text in part) / 1e6 for part in (known, held_out))
    return {
        "train_s": {name: round(value, 2) for name, value in train_seconds.items()},
        "train_mb": round(train_mb, 1),
        "predict_mb_s": {name: round(mb / value, 1) for name, value in seconds.items()},
        "held_out_auc": {
            name: round(area_under_curve(np.nan_to_num(found, nan=0.5), is_positive), 4)
            for name, found in scores.items()
        },
    }


def measure_languages(pieces: list[str], repetitions: int) -> dict:
    """Documents per second of language identification, and the largest difference of a score."""
    try:
        path = find_language_model()
    except FileNotFoundError as missing:
        return {"skipped": str(missing)}
    texts = [piece[:LANGUAGE_CHARACTERS].replace("\n", " ") for piece in pieces]
    identifier, fasttext = LanguageIdentifier.load(path), optional("fasttext")
    tasks: dict[str, Callable] = {"ours": lambda: identifier.documents(texts)["language_score"]}
    if fasttext is not None:
        model = fasttext.load_model(str(path))
        tasks["fasttext"] = lambda: [model.predict(text) for text in texts]
    seconds, found = best_times(tasks, repetitions)
    result: dict = {"documents_s": {name: round(len(texts) / value) for name, value in seconds.items()}}
    if fasttext is not None:
        theirs = np.array([scores[0] if len(scores) else np.nan for _, scores in found["fasttext"]])
        result["largest_difference"] = float(np.nanmax(np.abs(found["ours"] - np.minimum(theirs, 1))))
        result["ratio"] = round(seconds["fasttext"] / seconds["ours"], 2)
    return result


def measure_overlap(pieces: list[str], repetitions: int) -> dict:
    """MB/s of looking for a benchmark of a tenth of the texts, and whether those and no others are found whole."""
    began = time.perf_counter()
    index = BenchmarkIndex({"planted": pieces[::10]})
    build = time.perf_counter() - began
    batch = TextBatch.of(pieces)

    def look() -> np.ndarray:
        parts = [find_overlap(part, index).scores["benchmark_overlap"] for _, part in batch.parts(1 << 20)]
        return np.concatenate(parts)

    seconds, found = best_times({"ours": look}, repetitions)
    return {
        "mb_s": round(batch.data.size / seconds["ours"] / 1e6, 1),
        "index_ngrams": len(index),
        "index_s": round(build, 2),
        "planted_found_whole": round(float((found["ours"][::10] > 0.99).mean()), 4),
    }


def print_table(result: dict) -> None:
    for part in ("classifiers", "languages", "overlap"):
        for name, value in result[part].items():
            shown = value if isinstance(value, dict) else {"": value}
            print(f"{part:12} {name:22}" + "".join(f"{v!s:>12} {k}" for k, v in shown.items()), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=8, help="of text")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pieces, labels = read_pieces(int(args.megabytes * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "benchmark": "curation_classify",
            "cores": 1,
            "load_average": round(os.getloadavg()[0], 1),
            "texts": len(pieces),
            "classifiers": measure_classifiers(pieces, labels, args.repetitions, folder),
            "languages": measure_languages(pieces, args.repetitions),
            "overlap": measure_overlap(pieces, args.repetitions),
        }
    print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The linear classifier: it learns planted tasks, and the same data makes the same bytes."""

import dataclasses
import hashlib

import numpy as np
import pytest

from llama3_jax.curation.classify import linear
from llama3_jax.curation.classify.features import FeatureConfig, Features, hashed_features
from llama3_jax.curation.classify.held_out import area_under_curve
from llama3_jax.curation.classify.linear import LinearClassifier, LinearConfig, train
from llama3_jax.curation.text_batch import TextBatch

CONFIG = LinearConfig(features=FeatureConfig(bits=16))
VOCABULARY = np.array([f"w{number}" for number in range(2000)])


def texts_of_words(rng, count: int, tilt: float) -> tuple[list[str], list[str]]:
    """Texts of a Zipf-like language; in those called good the words of one tenth are `tilt` times as frequent."""
    odds = 1 / np.arange(10, 2010)
    tilted = odds * np.where(np.arange(2000) % 10 == 0, tilt, 1.0)
    labels = rng.choice(["bad", "good"], count)
    texts = []
    for label in labels:
        weights = tilted if label == "good" else odds
        texts.append(" ".join(rng.choice(VOCABULARY, rng.integers(30, 120), p=weights / weights.sum())))
    return texts, labels.tolist()


def texts_of_pairs(rng, count: int) -> tuple[list[str], list[str]]:
    """Both classes have the same words; only which ones stand side by side differs."""
    labels, texts = rng.choice(["bad", "good"], count), []
    for label in labels:
        pairs = [("a", "b"), ("c", "d")] if label == "good" else [("a", "d"), ("c", "b")]
        words = []
        for pair in rng.integers(0, 2, 15):
            words += [*pairs[pair], *rng.choice(VOCABULARY[:50], 2)]
        texts.append(" ".join(words))
    return texts, labels.tolist()


def held_out_auc(make, config: LinearConfig, count: int = 1200) -> float:
    rng = np.random.default_rng(0)
    texts, labels = make(rng, count)
    half = count * 2 // 3
    model = train(texts[:half], labels[:half], config)
    is_good = np.array(labels[half:]) == "good"
    return area_under_curve(model.scores(texts[half:])[:, model.labels.index("good")], is_good)


def test_it_learns_which_words_are_more_frequent():
    assert held_out_auc(lambda rng, count: texts_of_words(rng, count, 4.0), CONFIG) > 0.98
    assert 0.4 < held_out_auc(lambda rng, count: texts_of_words(rng, count, 1.0), CONFIG) < 0.6


def test_it_learns_which_words_stand_side_by_side_and_needs_bigrams_to():
    words_only = dataclasses.replace(CONFIG, features=FeatureConfig(word_ngrams=1, bits=16))
    assert held_out_auc(texts_of_pairs, CONFIG) > 0.99
    assert held_out_auc(texts_of_pairs, words_only) < 0.6


def test_it_learns_more_than_two_classes():
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c", "d"], 800).tolist()
    starts = {"a": 0, "b": 100, "c": 200, "d": 300}
    texts = [" ".join(rng.choice(VOCABULARY[starts[label] : starts[label] + 300], 40)) for label in labels]
    model = train(texts[:500], labels[:500], CONFIG)
    found = model.predict(texts[500:], k=2)
    assert np.mean(np.array(model.labels)[found.labels[:, 0]] == labels[500:]) > 0.9
    assert (found.scores[:, 0] >= found.scores[:, 1]).all()
    assert model.scores(texts[500:]).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_order_of_the_data_changes_no_byte(tmp_path):
    rng = np.random.default_rng(1)
    texts, labels = texts_of_words(rng, 300, 3.0)
    texts[7], labels[7], labels[8] = texts[8], "good", "bad"  # one text with two labels
    files = []
    for number in range(3):
        order = rng.permutation(300)
        model = train([texts[i] for i in order], [labels[i] for i in order], CONFIG)
        model.save(tmp_path / f"{number}.npz")
        files.append((tmp_path / f"{number}.npz").read_bytes())
    assert files[0] == files[1] == files[2]


def test_scores_do_not_depend_on_the_batch(monkeypatch):
    rng = np.random.default_rng(2)
    texts, labels = texts_of_words(rng, 200, 3.0)
    model = train(texts, labels, CONFIG)
    texts = [*texts, "", " . ", "w1"]
    together = model.scores(texts)
    assert np.array_equal(together, np.concatenate([model.scores([text]) for text in texts]), equal_nan=True)
    assert np.array_equal(together, model.scores(TextBatch.of(texts)), equal_nan=True)
    monkeypatch.setattr(linear, "PART_BYTES", 777)
    assert np.array_equal(together, model.scores(texts), equal_nan=True)
    assert np.isnan(together[-3:-1]).all() and np.isfinite(together[-1]).all()
    assert model.predict(texts).labels[-3:-1].tolist() == [[-1], [-1]]


def test_features_may_lie_in_a_file(tmp_path):
    rng = np.random.default_rng(6)
    texts, labels = texts_of_words(rng, 100, 3.0)
    features = hashed_features(TextBatch.of(texts), CONFIG.features)
    features.columns.tofile(tmp_path / "columns")
    mapped = Features(np.memmap(tmp_path / "columns", np.int32, "r"), features.splits)
    keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    model = linear.train_on_features(mapped, keys, labels, CONFIG)
    assert np.array_equal(model.weights, train(texts, labels, CONFIG).weights)


def test_a_rare_class_weighs_as_much_when_balanced():
    rng = np.random.default_rng(3)
    labels = np.where(rng.random(600) < 0.05, "rare", "usual").tolist()
    starts = {"rare": 20, "usual": 0}
    texts = [" ".join(rng.choice(VOCABULARY[starts[label] : starts[label] + 60], 12)) for label in labels]
    mean = {}
    for balanced in (False, True):
        model = train(texts, labels, dataclasses.replace(CONFIG, balanced=balanced))
        mean[balanced] = model.scores(["w30 w40"])[0, model.labels.index("rare")]
    assert mean[True] > mean[False]


def test_what_is_saved_is_loaded(tmp_path):
    rng = np.random.default_rng(4)
    texts, labels = texts_of_words(rng, 100, 3.0)
    config = LinearConfig(features=FeatureConfig(word_ngrams=1, min_chars=2, max_chars=3, bits=12), epochs=2, l2=1e-6)
    model = train(texts, labels, config)
    model.save(tmp_path / "model.npz")
    loaded = LinearClassifier.load(tmp_path / "model.npz")
    assert loaded.config == config and loaded.labels == ("bad", "good")
    assert np.array_equal(loaded.scores(texts), model.scores(texts))


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    texts, labels = texts_of_words(np.random.default_rng(5), 20, 3.0)
    model = train(texts, labels, CONFIG)
    with monkeypatch.context() as patched:
        patched.setattr(LinearConfig, "hash", lambda self: "other")
        model.save(tmp_path / "config.npz")
        patched.setattr(linear, "FORMAT_VERSION", 2)
        model.save(tmp_path / "format.npz")
    dataclasses.replace(model, weights=model.weights[:-1]).save(tmp_path / "weights.npz")
    for name, message in {"config": "configuration", "format": "format 2", "weights": "weights"}.items():
        with pytest.raises(ValueError, match=message):
            LinearClassifier.load(tmp_path / f"{name}.npz")


def test_what_cannot_be_learnt_is_refused():
    with pytest.raises(ValueError, match="two classes"):
        train(["a", "b"], ["x", "x"], CONFIG)
    with pytest.raises(ValueError, match="labels for"):
        train(["a", "b"], ["x"], CONFIG)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch_documents": 0}, {"learning_rate": 0}, {"l2": -1}])
def test_a_senseless_config_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LinearConfig(**settings)

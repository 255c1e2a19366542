"""Models of fastText: every loss, n-gram and quantisation against fastText itself; files that do not hold together."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.classify import fasttext as reader
from llama3_jax.curation.classify.fasttext import FastTextModel
from tests.curation.classify.fasttext_writer import LABELS, LOSSES, write_model

TEXTS = [
    "the cat sat on the mat",
    "кот сидел на ковре, the end",
    "été à la maison 🙂 naïve",
    "是的 你好世界",
    "ที่บ้าน मैं घर में हूँ",
    "a b  c\t\td\x0b\x0ce\rf\0g",
    "the </s> cat is not read",
    "</s>",
    "__label__en the cat",
    "the __label__unknown cat",
    "unknown",
    "word " * 300,
    "zy" * 300 + "é" * 300 + " end",  # a word that is hashed on a path of its own
    "",
    " \t ",
    "\x80\xff latin",
]
LAYOUTS = [
    {},
    {"quantised": True},
    {"quantised": True, "norms": True, "pruned": True},
    {"quantised": True, "norms": True, "quantised_output": True, "pruned": True},
]
NGRAMS = [(1, (0, 0)), (3, (0, 0)), (1, (2, 4)), (2, (1, 3))]
STEP = 1 / 127  # more than the highest step of the table of sigmoids


def judge():
    return pytest.importorskip("fasttext", reason="fasttext-predict is the judge")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ngrams", NGRAMS)
def test_scores_are_those_of_fasttext(tmp_path, loss, layout, ngrams):
    path = write_model(tmp_path / "model", loss=loss, word_ngrams=ngrams[0], chars=ngrams[1], **layout)
    theirs, ours = judge().load_model(str(path)), FastTextModel.load(path)
    found = ours.scores(TEXTS)
    places = {f"__label__{label}": i for i, label in enumerate(ours.labels)}
    differences, compared = [], 0
    for text, scores in zip(TEXTS, found, strict=True):
        labels, expected = theirs.predict(text, k=len(LABELS))
        assert bool(labels) != np.isnan(scores).all()
        # Their tree search leaves out what is less likely than 1e-5.
        assert len(labels) == len(LABELS) or loss == "hierarchical_softmax" or not labels
        differences += [abs(scores[places[label]] - value) for label, value in zip(labels, expected, strict=True)]
        compared += bool(labels)
    assert compared >= 6
    differences = np.array(differences)
    if loss in ("negative_sampling", "one_vs_all"):  # rounding can move a logit over the border of a step of the table
        assert np.mean(differences > 1e-5) < 0.01 and differences.max() < STEP
    else:
        assert differences.max() < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_best_labels_are_those_of_fasttext(tmp_path, loss):
    path = write_model(tmp_path / "model", loss=loss, word_ngrams=2, chars=(2, 3))
    theirs, ours = judge().load_model(str(path)), FastTextModel.load(path)
    found = ours.predict(TEXTS, k=2)
    for text, labels, scores in zip(TEXTS, found.labels, found.scores, strict=True):
        expected = theirs.predict(text, k=2)
        if not expected[0]:
            assert (labels == -1).all() and np.isnan(scores).all()
        elif scores[0] - scores[1] > STEP:
            assert f"__label__{ours.labels[labels[0]]}" == expected[0][0]
        assert scores[: len(expected[1])] == pytest.approx(expected[1], abs=STEP)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> FastTextModel:
    return FastTextModel.load(
        write_model(tmp_path_factory.mktemp("m") / "m", loss="softmax", chars=(1, 4), word_ngrams=3)
    )


@pytest.fixture(scope="module")
def model_and_judge(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("m") / "m", loss="softmax", chars=(1, 4), word_ngrams=3)
    return FastTextModel.load(path), judge().load_model(str(path))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=60))
def test_any_text_scores_as_in_fasttext(model_and_judge, text):
    ours, theirs = model_and_judge
    labels, expected = theirs.predict(text, k=len(LABELS))
    scores = dict(zip(ours.labels, ours.scores([text])[0], strict=True))
    assert [scores[label.removeprefix("__label__")] for label in labels] == pytest.approx(list(expected), abs=1e-5)


def test_line_ends_are_white_space_and_glue_no_words(model):
    assert np.array_equal(model.scores(["the cat\nsat"]), model.scores(["the cat sat"]))
    assert not np.array_equal(model.scores(["the cat\nsat"]), model.scores(["the catsat"]))


def test_scores_do_not_depend_on_the_batch(model, monkeypatch):
    texts = [text * count for text in TEXTS for count in (1, 3)]
    alone = np.concatenate([model.scores([text]) for text in texts])
    assert np.array_equal(model.scores(texts), alone, equal_nan=True)
    assert np.array_equal(model.scores(texts[::-1])[::-1], alone, equal_nan=True)
    monkeypatch.setattr(reader, "BATCH_BYTES", 50)
    assert np.array_equal(model.scores(texts), alone, equal_nan=True)


def test_a_word_of_thousands_of_ngrams_scores_as_in_fasttext_but_for_the_order_of_its_sum(model_and_judge):
    ours, theirs = model_and_judge
    text = "z" * 3000 + "é" * 1500
    labels, expected = theirs.predict(text, k=len(LABELS))
    scores = dict(zip(ours.labels, ours.scores([text])[0], strict=True))
    assert [scores[label.removeprefix("__label__")] for label in labels] == pytest.approx(list(expected), abs=1e-4)


def test_no_texts(model):
    assert model.scores([]).shape == (0, len(LABELS))
    assert model.predict([], k=2).labels.shape == (0, 2)


def test_lone_surrogates_are_read(model):
    assert np.isfinite(model.scores(["the \ud800 cat"])).all()


def test_a_file_cut_short_or_spoilt_is_refused(tmp_path):
    data = write_model(
        tmp_path / "m", loss="softmax", quantised=True, norms=True, pruned=True, chars=(2, 3)
    ).read_bytes()
    path = tmp_path / "spoilt"
    for size in (0, 7, 8, 60, 80, 100, 300, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises((ValueError, EOFError)):
            FastTextModel.load(path)
    for place, value in ((0, 1), (4, 9), (32, 9), (36, 1), (8, 5), (68, 3)):  # magic version loss model dim words
        path.write_bytes(data[:place] + bytes([value, 0, 0, 0]) + data[place + 4 :])
        with pytest.raises(ValueError, match="spoilt"):
            FastTextModel.load(path)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(8, 400), value=st.integers(0, 255))
def test_a_wrong_byte_is_refused_or_read(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("w")
    data = bytearray(write_model(folder / "m", loss="hierarchical_softmax", chars=(2, 3)).read_bytes())
    data[place] = value
    (folder / "m").write_bytes(data)
    with contextlib.suppress(ValueError):
        FastTextModel.load(folder / "m").scores(TEXTS)

"""Word counts are exact and the same for every order, number of workers and size of memory."""

import collections
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data import word_counts
from llama3_jax.data.word_counts import CountConfig, SourceCount, balanced_weights, count_corpus
from llama3_jax.data.word_runs import read_run, sum_runs, write_run
from llama3_jax.data.words import split_words

STDLIB = Path(os.__file__).parent
DOCUMENTS = st.lists(st.tuples(st.sampled_from("xyz"), st.text(st.characters(), min_size=1, max_size=30)), min_size=1)


@pytest.fixture(scope="module")
def documents():
    """Real text of two sources, source by source."""
    names = sorted(STDLIB.glob("*.py"))[:24]
    return [("ab"[index % 2], path.read_text(encoding="utf-8")) for index, path in enumerate(names)]


def same(left, right) -> bool:
    return (
        left.words == right.words
        and left.counts.tolist() == right.counts.tolist()
        and left.sources == right.sources
        and (left.total_count, left.left_out_words, left.left_out_count)
        == (right.total_count, right.left_out_words, right.left_out_count)
    )


@settings(max_examples=100, deadline=None)
@given(documents=DOCUMENTS, weight=st.integers(1, 2**40), order=st.randoms(use_true_random=False))
def test_counts_are_exact_whatever_the_order_and_the_memory(documents, weight, order):
    names = {name for name, _ in documents}
    weights = {"x": weight} if "x" in names else {}
    expected = collections.Counter()
    for name, text in documents:
        for word in split_words(text):
            expected[word] += weights.get(name, 1)
    table = count_corpus(documents, CountConfig(weights=weights))
    assert table.words == sorted(expected)
    assert dict(zip(table.words, table.counts.tolist(), strict=True)) == expected
    assert table.total_count == expected.total() and table.left_out_words == 0
    order.shuffle(documents)
    assert same(count_corpus(documents, CountConfig(weights=weights, max_table_words=1)), table)


def test_words_beyond_the_budget_go_to_disk_and_come_back(documents, monkeypatch):
    written = []

    def write(counts, path):
        written.append(len(counts))
        write_run(counts, path)

    reference = count_corpus(documents, CountConfig(weights={"b": 3}))
    monkeypatch.setattr(word_counts, "write_run", write)
    assert same(count_corpus(documents, CountConfig(weights={"b": 3}, max_table_words=3000)), reference)
    assert len(written) > 3 and sum(written) > len(reference.words) > 5000


def test_workers_give_the_same_table(documents, monkeypatch):
    monkeypatch.setattr(word_counts, "_ALONE_CHARS", 1)
    reference = count_corpus(documents, CountConfig(num_workers=1))
    pools = []
    real = word_counts.ProcessPoolExecutor
    monkeypatch.setattr(word_counts, "ProcessPoolExecutor", lambda *args: pools.append(args) or real(*args))
    shuffled = random.Random(0).sample(documents, len(documents))
    assert same(count_corpus(shuffled, CountConfig(num_workers=2)), reference)
    assert len(pools) == 1


def test_runs_are_sorted_and_summed(tmp_path):
    write_run({"b": 2, "a": 1, "😀": 5, "\uffee": 4, "": 1}, tmp_path / "run")
    run = list(read_run(tmp_path / "run"))
    assert run == [("", 1), ("a", 1), ("b", 2), ("\uffee", 4), ("😀", 5)]
    assert [word.encode() for word, _ in run] == sorted(word.encode() for word, _ in run)
    assert list(sum_runs([run, [("a", 2**40), ("c", 1)], []])) == sorted(
        [*run[:1], ("a", 2**40 + 1), *run[2:], ("c", 1)]
    )
    write_run({}, tmp_path / "empty")
    assert list(read_run(tmp_path / "empty")) == []


@pytest.mark.parametrize("max_words", [1, 2, 3, 4, 5, 100])
def test_the_heaviest_words_are_kept(max_words):
    words = {"a": 3, "b": 9, "c": 3, "d": 1, "e": 3}
    table = count_corpus(
        [("x", f"{word}\n" * count) for word, count in words.items()], CountConfig(max_words=max_words)
    )
    newline = {"\n": sum(words.values())}
    heaviest = ["\n", "b", "a", "c", "e", "d"][:max_words]
    assert table.words == sorted(heaviest)
    assert table.counts.tolist() == [(words | newline)[word] for word in sorted(heaviest)]
    assert table.left_out_words == max(0, 6 - max_words)
    assert (
        table.left_out_count
        == table.total_count - table.counts.sum()
        == sum((words | newline)[word] for word in ["\n", "b", "a", "c", "e", "d"][max_words:])
    )


def test_sizes_of_sources():
    table = count_corpus([("hi", "नमस्ते"), ("en", "a\ud800"), ("hi", "é")], CountConfig(weights={"hi": 7}))
    assert table.sources == {"hi": SourceCount(2, 7, 20, 7), "en": SourceCount(1, 2, 4, 1)}


def test_balance():
    sizes = {"en": 10_000, "hi": 100, "th": 1}
    assert balanced_weights(sizes, 1) == {"en": 1, "hi": 1, "th": 1}
    assert balanced_weights(sizes, 0) == {"en": 1, "hi": 100, "th": 10_000}
    assert balanced_weights(sizes, 0.5) == {"en": 1, "hi": 10, "th": 100}
    table = count_corpus([("en", "word " * 100), ("hi", "x")], CountConfig(balance=0))
    assert table.sources["hi"].weight == 500
    assert table.counts[table.words.index("x")] == 500


def test_hostile_text():
    texts = ["\0" * 10, "\ud800", "x" * 1_000_000, "\u200b\u202e\u0301", " \u00a0\u3000", "\ud83d\ude00"]
    table = count_corpus([("x", text) for text in texts], CountConfig())
    assert max(map(len, table.words)) == 25_000
    assert sum(len(word) * count for word, count in zip(table.words, table.counts.tolist(), strict=True)) == sum(
        size.characters for size in table.sources.values()
    )


@pytest.mark.parametrize("documents", [[], [("x", "")], [("x", ""), ("y", "")]])
def test_no_text_is_refused(documents):
    with pytest.raises(ValueError, match="is empty"):
        count_corpus(documents, CountConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"x": 0}}, "weights: x must be a whole number from 1, got 0"),
        ({"weights": {"x": 1.5}}, "weights: x must be a whole number"),
        ({"balance": 1.1}, "balance must be from 0"),
        ({"balance": float("nan")}, "balance must be from 0"),
        ({"balance": 0.5, "weights": {"x": 2}}, "weights or balance, not both"),
        ({"max_words": 0}, "max_words must be at least 1"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        CountConfig(**settings)


def test_weights_must_fit_the_corpus():
    with pytest.raises(ValueError, match="there is no source 'z'; there are x, y"):
        count_corpus([("y", "a"), ("x", "a")], CountConfig(weights={"z": 2}))
    with pytest.raises(ValueError, match="more than 64 bits hold"):
        count_corpus([("x", "a a a")], CountConfig(weights={"x": 2**61}))
    assert count_corpus([("x", "a a a")], CountConfig(weights={"x": 2**40})).counts.tolist() == [2**41, 2**40]


def test_progress_is_told_in_bytes(documents):
    told = []
    count_corpus(documents, CountConfig(), on_progress=told.append)
    assert sum(told) == sum(len(text.encode()) for _, text in documents)

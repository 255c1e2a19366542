"""Overlap with benchmarks: planted leaks, and the share of words against a plain count."""

import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.contamination import BenchmarkIndex, find_overlap, read_benchmark
from llama3_jax.curation.text_batch import TextBatch

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
PASSAGE = "The river was high after the rain and nobody could cross the old bridge until the next morning came."


def plain_share(text: str, benchmark: list[str], n: int) -> float:
    words = re.findall(r"\w+", text.lower())
    known = {
        tuple(found[i : i + n])
        for t in benchmark
        for found in [re.findall(r"\w+", t.lower())]
        for i in range(len(found))
    }
    covered = [False] * len(words)
    for start in range(len(words) - n + 1):
        if tuple(words[start : start + n]) in known:
            covered[start : start + n] = [True] * n
    return sum(covered) / max(len(words), 1)


def test_a_planted_leak_is_found_whatever_its_spelling():
    index = BenchmarkIndex({"gsm8k": [QUESTION], "squad": [PASSAGE]})
    leak = QUESTION.upper().replace(" ", "\n ").replace(",", " --")
    texts = [
        f"Homework of today:\n{leak}\nEnd.",
        PASSAGE,
        "Nothing of the kind is here, as far as one can see today.",
        "",
    ]
    found = find_overlap(TextBatch.of(texts), index)
    assert found.scores["benchmark"].tolist() == ["gsm8k", "squad", "", ""]
    share = found.scores["benchmark_overlap"]
    assert share.tolist() == [20 / 24, 1, 0, 0]
    assert found.spans.row.tolist() == [0, 1]
    spans = [texts[row][a:b] for row, a, b in zip(*found.spans[:3], strict=True)]
    assert spans == [leak.rstrip("."), PASSAGE.rstrip(".")]


def test_seven_words_in_a_row_are_not_eight():
    words = PASSAGE.split()
    index = BenchmarkIndex({"squad": [PASSAGE]})
    found = find_overlap(TextBatch.of([" ".join(words[:7]) + " x", " ".join(words[:8]) + " x"]), index)
    assert found.scores["benchmark_overlap"].tolist() == [0, 8 / 9]


def test_an_ngram_does_not_go_on_in_the_next_document():
    words = PASSAGE.split()
    found = find_overlap(TextBatch.of([" ".join(words[:5]), " ".join(words[5:10])]), BenchmarkIndex({"s": [PASSAGE]}))
    assert found.scores["benchmark_overlap"].tolist() == [0, 0] and found.spans.row.size == 0


def test_neighbouring_documents_have_spans_of_their_own():
    found = find_overlap(TextBatch.of([PASSAGE, PASSAGE]), BenchmarkIndex({"s": [PASSAGE]}))
    assert found.spans.row.tolist() == [0, 1]
    assert found.spans.end.tolist() == [len(PASSAGE) - 1] * 2


WORDS = st.lists(st.sampled_from(["a", "b", "Cé", "中", "d,"]), max_size=25).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(documents=st.lists(WORDS, min_size=1, max_size=4), benchmark=st.lists(WORDS, max_size=3))
def test_the_share_is_that_of_a_plain_count(documents, benchmark):
    benchmark = [*benchmark, "x y z"]
    found = find_overlap(TextBatch.of(documents), BenchmarkIndex({"b": benchmark}, num_words=3))
    expected = [plain_share(text, benchmark, 3) for text in documents]
    assert found.scores["benchmark_overlap"] == pytest.approx(expected, abs=1e-12)


def test_what_is_too_short_is_counted():
    index = BenchmarkIndex({"b": [QUESTION, "Paris", ""], "a": [PASSAGE, QUESTION]})
    assert index.num_too_short == {"a": 0, "b": 2}
    assert len(index) == (20 - 7) + (19 - 7)
    with pytest.raises(ValueError, match="no text has 8 words"):
        BenchmarkIndex({"b": ["Paris"]})


def test_files_of_benchmarks(tmp_path):
    record = {"question": QUESTION, "choices": {"text": ["Paris", "Rome"], "label": [1, 2]}, "answer": None}
    lines = json.dumps(record) + "\n\n" + json.dumps([PASSAGE]) + "\n"
    (tmp_path / "b.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.txt").write_text(f"{QUESTION}\n{PASSAGE}\n")
    for name in ("b.jsonl", "b.jsonl.gz"):
        assert list(read_benchmark(str(tmp_path / name))) == [QUESTION, "Paris", "Rome", PASSAGE]
    assert [line.strip() for line in read_benchmark(str(tmp_path / "b.txt"))] == [QUESTION, PASSAGE]
    (tmp_path / "bad.jsonl").write_text("{}\n{broken\n")
    with pytest.raises(ValueError, match="line 2"):
        list(read_benchmark(str(tmp_path / "bad.jsonl")))


def test_a_large_index_finds_what_it_holds_and_nothing_else():
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(5000)])
    benchmark = [" ".join(rng.choice(words, 60)) for _ in range(2000)]
    clean = [" ".join(rng.choice(words, 60)) for _ in range(2000)]
    index = BenchmarkIndex({"b": benchmark})
    assert find_overlap(TextBatch.of(benchmark), index).scores["benchmark_overlap"].tolist() == [1] * 2000
    assert find_overlap(TextBatch.of(clean), index).scores["benchmark_overlap"].tolist() == [0] * 2000

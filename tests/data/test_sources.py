"""Named sources of a corpus."""

import pytest

from llama3_jax.data.sources import batches, parse_sources, read_sources


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["hi=a.txt", "hi=b.txt", "en=c.txt"], {"hi": ["a.txt", "b.txt"], "en": ["c.txt"]}),
        (["web/en.jsonl.zst", "web/th/"], {"en": ["web/en.jsonl.zst"], "th": ["web/th/"]}),
        (["zh_CN=gs://b/date=1/x.jsonl"], {"zh_CN": ["gs://b/date=1/x.jsonl"]}),
        (["./date=1/x.txt", "gs://b/date=1"], {"x": ["./date=1/x.txt"], "date=1": ["gs://b/date=1"]}),
    ],
)
def test_names(inputs, expected):
    assert parse_sources(inputs) == expected


@pytest.mark.parametrize(("inputs", "message"), [([], "no input"), ([""], "empty")])
def test_nothing_is_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        parse_sources(inputs)


def test_documents_come_with_their_source(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    sources = parse_sources([f"x={tmp_path / 'c.txt'}", f"y={tmp_path / 'a.txt'}", f"x={tmp_path / 'b.txt'}"])
    assert list(read_sources(sources)) == [("x", "text c"), ("x", "text b"), ("y", "text a")]


def test_batches_keep_sources_apart():
    long = "x" * (1 << 22)
    documents = [("a", "1"), ("a", long), ("a", "2"), ("b", "3"), ("a", "4")]
    assert list(batches(documents)) == [("a", ["1", long]), ("a", ["2"]), ("b", ["3"]), ("a", ["4"])]
    assert list(batches([])) == []

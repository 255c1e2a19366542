"""Labelled texts from files."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from llama3_jax.curation.classify.cited_urls import build_cited_urls
from llama3_jax.curation.classify.examples import Fields, labelled_examples, read_rows, reference_examples
from llama3_jax.curation.classify.wiki_references import ReferenceConfig

FIELDS = Fields(label="kind")
ROWS = [{"text": f"text {n}", "url": f"http://h{n % 20}.example/{n}", "kind": n % 2, "more": 1} for n in range(100)]


def as_lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(as_lines(ROWS)))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(as_lines(ROWS)))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    (tmp_path / "ignored.csv").write_text("x")
    rows = [list(read_rows([str(path)], FIELDS)) for path in sorted(tmp_path.glob("?.*"))]
    assert len(rows) == 4 and all(part == rows[0] for part in rows)
    assert rows[0][1] == ("text 1", "http://h1.example/1", "1")
    assert list(read_rows([str(tmp_path)], FIELDS)) == rows[0] * 4


def test_bad_rows_name_their_file(tmp_path):
    path = tmp_path / "bad.jsonl"
    for content in (b'{"text": 1, "kind": "a"}\n', b'{"text": "x"}\n', b"{broken\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="bad.jsonl"):
            list(read_rows([str(path)], FIELDS))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(as_lines(ROWS))[:-20])
    with pytest.raises(ValueError, match="cut.jsonl.gz"):
        list(read_rows([str(cut)], FIELDS))
    assert [row.label for row in _read(tmp_path, [{"text": "x"}], Fields())] == [""]


def _read(folder, rows, fields=FIELDS):
    (folder / "rows.jsonl").write_bytes(as_lines(rows))
    return read_rows([str(folder / "rows.jsonl")], fields)


def test_whole_hosts_are_held_out_in_any_order(tmp_path):
    found = labelled_examples(_read(tmp_path, ROWS), held_out_share=0.3)
    held_out = {text for text, held in zip(found.texts, found.is_held_out, strict=True) if held}
    hosts = [{row["url"].split("/")[2] for row in ROWS if (row["text"] in held_out) == side} for side in (True, False)]
    assert hosts[0] and hosts[1] and not hosts[0] & hosts[1]
    again = labelled_examples(_read(tmp_path, ROWS[::-1]), held_out_share=0.3)
    assert held_out == {text for text, held in zip(again.texts, again.is_held_out, strict=True) if held}
    assert found.labels == [str(row["kind"]) for row in ROWS]


def test_documents_without_urls_are_held_out_one_by_one(tmp_path):
    rows = [{"text": row["text"], "kind": "a"} for row in ROWS]
    found = labelled_examples(_read(tmp_path, rows), held_out_share=0.3)
    assert 10 < found.is_held_out.sum() < 50


def test_texts_of_cited_pages_and_of_others(tmp_path):
    cited = build_cited_urls([row["url"] for row in ROWS if row["text"].endswith("7")], tmp_path / "cited")
    read = lambda: _read(tmp_path, ROWS, Fields())
    found = reference_examples(read, cited, ReferenceConfig(max_per_host=3, held_out_share=0.0))
    labels = dict(zip(found.texts, found.labels, strict=True))
    assert {text for text, label in labels.items() if label == "cited"} <= {f"text {n}" for n in range(7, 100, 10)}
    assert list(labels.values()).count("cited") == list(labels.values()).count("other") == 6
    assert not np.any(found.is_held_out)

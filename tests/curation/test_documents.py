"""Documents by ranges of ids: the same documents in the same order, however they lay in files and are cut."""

import datetime
import random

import numpy as np
import pytest

from llama3_jax.curation import documents as documents_lib
from llama3_jax.curation.documents import Document, Lost, collect, numbers, write_runs
from llama3_jax.curation.identity import document_id, part_of, parts_of
from llama3_jax.curation.runner import RunnerConfig, run_steps
from llama3_jax.curation.steps import Step

DATE = datetime.datetime(2024, 5, 17, tzinfo=datetime.UTC)


def pages(count=200):
    found = []
    for i in range(count):
        content = f"<p>{i}</p>".encode()
        date = None if i % 3 else DATE + datetime.timedelta(days=i)
        found.append(Document(f"https://a.test/{i}", date, content, f"Title {i}", f"text {i} " * (i % 17)))
    return [*found, *found[:20], Lost("https://a.test/lost", "empty"), Lost("https://a.test/bomb", "ratio")]


def read(tasks):
    (task,) = tasks
    return [write_runs(task, "crawl", task.settings["files"][task.index], task.settings["num_parts"])]


def collected(tmp_path, monkeypatch, num_files, num_parts, seed=0):
    """(ids, texts, numbers) of all partitions in order."""
    shuffled = pages()
    random.Random(seed).shuffle(shuffled)
    workdir = str(tmp_path / f"{num_files}-{num_parts}-{seed}")
    settings = {"files": [shuffled[i::num_files] for i in range(num_files)], "num_parts": num_parts}
    first = Step(name="read", work=read, num_tasks=num_files, settings=settings)
    object.__setattr__(first, "fingerprint", "read" * 8)
    second = Step(name="documents", work=collect, num_tasks=num_parts, after={"read": first})
    run_steps([first, second], workdir, RunnerConfig(workers=0))
    results = second.results(workdir)
    tables = [table for part in range(num_parts) for table in results.batches(part, "documents")]
    rows = [row for table in tables for row in table.to_pylist()]
    return rows, numbers(results), first.results(workdir).total(), results.total()


def test_files_partitions_and_order_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_lib, "RUN_BYTES", 500)  # many runs a file
    monkeypatch.setattr(documents_lib, "BATCH_BYTES", 300)
    rows, _, read_counts, counts = collected(tmp_path, monkeypatch, 1, 1)
    assert len(rows) == 200 and [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert (read_counts["documents"], read_counts["dropped"]) == (222, 2)
    assert (read_counts["reason.empty"], read_counts["reason.ratio"]) == (1, 1)
    assert counts["reason.identical page"] == 20
    for num_files, num_parts, seed in ((7, 3, 1), (64, 64, 2), (2, 5, 3)):
        others, starts, _, _ = collected(tmp_path, monkeypatch, num_files, num_parts, seed)
        assert others == rows
        assert starts[0] == 0 and starts[-1] == 200 and len(starts) == num_parts + 1


def test_everything_about_a_document_is_kept(tmp_path, monkeypatch):
    rows, _, _, _ = collected(tmp_path, monkeypatch, 3, 2)
    by_url = {row["url"]: row for row in rows}
    page = next(page for page in pages() if isinstance(page, Document) and page.url == "https://a.test/12")
    assert by_url[page.url] == {
        "id": document_id(page.url, page.date, page.content),
        "url": page.url,
        "date": page.date,
        "source": "crawl",
        "title": "Title 12",
        "text": page.text,
        "text_bytes": len(page.text),
    }


def test_an_id_is_that_of_url_date_and_bytes():
    page = ("https://a.test/", DATE, b"x")
    same_moment = DATE.astimezone(datetime.timezone(datetime.timedelta(hours=9)))
    assert document_id(*page) == document_id("https://a.test/", same_moment, b"x")
    others = [("https://a.test/x", DATE, b""), ("https://a.test/", None, b"x"), ("https://a.test/", DATE, b"y")]
    assert len({document_id(*other) for other in [page, *others]}) == 4
    with pytest.raises(ValueError, match="no time zone"):
        document_id("https://a.test/", DATE.replace(tzinfo=None), b"x")


def test_parts_are_equal_ranges_in_order():
    rng = np.random.default_rng(0)
    ids = sorted(rng.bytes(16) for _ in range(5000))
    for num_parts in (1, 3, 64):
        parts = [part_of(identity, num_parts) for identity in ids]
        assert parts == sorted(parts) and set(parts) == set(range(num_parts))
        assert parts_of(ids, num_parts).tolist() == parts
    edges = [bytes(16), b"\xff" * 16]
    assert parts_of(edges, 2**32 - 1).tolist() == [part_of(identity, 2**32 - 1) for identity in edges]
    assert parts_of([], 3).tolist() == []


def test_of_two_texts_of_one_page_the_same_one_stays(tmp_path, monkeypatch):
    """Files may differ in what they say of its encoding, and so in the text; which is read first must not matter."""
    twins = [Document("https://a.test/", None, b"x", "", text) for text in ("one", "another")]
    monkeypatch.setitem(globals(), "pages", lambda: list(twins))
    cuts = [(num_files, seed) for num_files in (1, 2) for seed in range(4)]
    found = [collected(tmp_path, monkeypatch, num_files, 1, seed)[0] for num_files, seed in cuts]
    assert [[row["text"] for row in rows] for rows in found] == [["another"]] * len(cuts)

"""Hostile and broken pages through the whole pipeline: each is counted with a reason, and nothing else is lost."""

import gzip
import io
import json

import pytest

from llama3_jax.curation.sources import SourceConfig
from llama3_jax.data import stdlib_pages
from tests.curation.corpus import page, records
from tests.curation.test_pipeline import config, kept, run

GOOD = [row for row in records() if "mirror" not in row["url"]][:30]


def warc(rows) -> bytes:
    found = io.BytesIO()
    for url, content in rows:
        record = io.BytesIO()
        stdlib_pages.response(url, content).write(record)
        found.write(gzip.compress(record.getvalue(), mtime=0))
    return found.getvalue()


@pytest.fixture
def pages(tmp_path):
    """A folder of pages: thirty good ones among every kind of wreck."""
    folder = tmp_path / "pages"
    folder.mkdir()
    rows = [(row["url"], row["html"].encode()) for row in GOOD]
    whole = warc(rows[:15])
    (folder / "a.warc.gz").write_bytes(whole + warc(rows[15:16])[:-40])  # cut in its last record
    (folder / "bomb.warc.gz").write_bytes(warc([("https://bomb.test/", b"0" * 30_000_000), rows[16]]))
    (folder / "empty.warc.gz").write_bytes(b"")
    prose = " ".join(["These words stand in a page whose bytes are not what its header says they are."] * 3)
    wrecks = {
        "nul.html": page("NUL", [prose.replace(" ", "\0 ")]).encode(),
        "latin.html": page("Latin", [prose + " Ä"]).encode("latin-1"),
        "broken.html": page("Broken", [prose]).encode() + bytes(range(128, 256)),
        "deep.html": b"<div>" * 100_000 + prose.encode(),
        "none.html": b"",
        "unclosed.html": b"<p" * 1000 + b"<pre><code>" + prose.encode(),
        "rtl.html": page("RTL", ["\u202eשלום\u200b " + prose]).encode(),
    }
    for name, content in wrecks.items():
        (folder / name).write_bytes(content)
    lines = [json.dumps(row) for row in GOOD[17:]]
    (folder / "rows.jsonl").write_text("\n".join([lines[0], "{", "[]", '{"url": 3}', "\0", *lines[1:]]) + "\n")
    return str(folder)


def test_wrecks_cost_themselves_alone(tmp_path, pages):
    settings = config(tmp_path, pages)
    budget = SourceConfig(max_bytes=4 << 20)
    entry = type(settings.sources["crawl"])(paths=(pages,), reader=budget)
    settings = config(tmp_path, pages, sources={"crawl": entry})
    steps = run(settings)
    read = steps["read-crawl"].results(settings.workdir).total()
    reasons = {key.removeprefix("reason."): count for key, count in read.items() if key.startswith("reason.")}
    # Cut in its last record, and a file of nothing; two lines that are no JSON, two of other fields; a bomb.
    assert reasons == {"truncated": 2, "json": 2, "field": 2, "ratio": 1}
    urls = {row["url"] for row in kept(settings)}
    assert sum(row["url"] in urls for row in GOOD) >= len({row["url"] for row in GOOD}) - 2
    texts = [row["text"] for row in kept(settings)]
    assert not any("\0" in text or "\u202e" in text or "\u200b" in text for text in texts)

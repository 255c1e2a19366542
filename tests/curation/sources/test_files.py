"""Listing, dispatch, folders of pages with sidecars, storage that fails, and memory under attack."""

import gzip
import json
import random
import subprocess
import sys
import zlib
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from llama3_jax.curation.sources import SourceConfig, SourceFile, list_sources, read_source
from tests.curation.sources.archives import gzip_each, http, numbers, page, record


def everything(paths, **settings) -> list[Any]:
    return [item for source in list_sources(paths) for item in read_source(source, SourceConfig(**settings))]


def test_a_folder_of_pages(tmp_path):
    for name in ("b/z.html", "b/ü 1.HTM", "a.txt", "c.xhtml", "skip.png", ".git/x.html", "b/empty.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"\xff" + name.encode())
    (tmp_path / "b/z.html.meta.json").write_text(
        json.dumps({"url": "http://example.com/z", "date": "2020-01-01", "charset": "latin-1"})
    )
    pages = everything([tmp_path])
    assert [(found.url, found.content_type, found.charset) for found in pages] == [
        ("file:///a.txt", "text/plain", None),
        ("http://example.com/z", "text/html", "latin-1"),
        ("file:///b/%C3%BC%201.HTM", "text/html", None),
        ("file:///c.xhtml", "application/xhtml+xml", None),
    ]
    assert [found.date and found.date.year for found in pages] == [None, 2020, None, None]
    assert everything([f"{tmp_path}/"]) == pages
    lone = everything([tmp_path / "b/z.html", tmp_path / "a.txt"], base_url="https://docs.example.org/en/")
    assert [found.url for found in lone] == ["http://example.com/z", "https://docs.example.org/en/a.txt"]


def test_names_do_not_depend_on_where_the_folder_is(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.html").write_text("<p>")
    assert everything([tmp_path / "one"]) == everything([tmp_path / "two"])


def test_files_of_a_pattern_are_named_as_those_of_its_folder(tmp_path):
    for name in ("x/a.html", "y/a.html", "y/b/c.html", "y/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"<p>{name}")
    (tmp_path / "y/a.html.meta.json").write_text('{"url": "http://example.com/a"}')
    urls = lambda pattern: [page.url for page in everything([tmp_path / pattern])]
    assert urls("y") == urls("y/") == ["http://example.com/a", "file:///b/c.html", "file:///d.txt"]
    assert urls("y/*.html") == ["http://example.com/a"] and urls("y/[d-z]*") == ["file:///d.txt"]
    assert urls("?") == ["file:///x/a.html", "http://example.com/a", "file:///y/b/c.html", "file:///y/d.txt"]


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [("{", "json"), ("[1]", "json"), ('{"url": 5}', "json"), ('{"date": "x"}', "date"), ("[" * 99999, "json")],
)
def test_bad_sidecars(tmp_path, sidecar, reason):
    (tmp_path / "a.html").write_text("<p>")
    (tmp_path / "a.html.meta.json").write_text(sidecar)
    (tmp_path / "b.html").write_text("<p>")
    lost, kept = everything([tmp_path])
    assert lost.reason == reason and kept.url == "file:///b.html"


def test_files_at_urls():
    with fsspec.filesystem("memory").open("/crawl/deep/a.warc.gz", "wb") as file:
        file.write(gzip_each([page(0), page(1)]))
    with fsspec.filesystem("memory").open("/crawl/b.html", "wb") as file:
        file.write(b"<p>")
    sources = list_sources(["memory://crawl"])
    assert [source[:2] for source in sources] == [
        ("memory://crawl/b.html", "b.html"),
        ("memory://crawl/deep/a.warc.gz", "deep/a.warc.gz"),
    ]
    assert numbers(list(read_source(sources[1], SourceConfig()))) == [0, 1]


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_sources([tmp_path / "nowhere"])
    (tmp_path / "a.html.meta.json").write_text("{}")
    with pytest.raises(ValueError, match="no files to read"):
        list_sources([tmp_path])
    with pytest.raises(ValueError, match="must be a list of paths"):
        list_sources(str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_bytes": 0},
        {"max_ratio": 0},
        {"ratio_floor": 0},
        {"url_field": ""},
        {"html_field": "text"},
        {"base_url": "x"},
    ],
)
def test_configurations_are_checked(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}|four names"):
        SourceConfig(**settings)


def test_storage_that_fails_is_no_damage_of_the_data(monkeypatch):
    """A lost connection must stop the run: counted as a casualty it would cost documents silently."""
    with fsspec.filesystem("memory").open("/flaky/a.warc.gz", "wb") as file:
        file.write(gzip_each([record(number, http(random.Random(number).randbytes(3000))) for number in range(400)]))
    (source,) = list_sources(["memory://flaky/a.warc.gz"])
    whole = len(list(read_source(source, SourceConfig())))
    assert whole == 400

    class Flaky:
        def __init__(self, file):
            self._file, self.tell, self.seek, self.close = file, file.tell, file.seek, file.close

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.close()

        def read(self, size=-1):
            if self.tell() > 300_000:
                raise ConnectionResetError("the storage went away")
            return self._file.read(size)

    opened = MemoryFileSystem._open
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda *args, **options: Flaky(opened(*args, **options)))
    found = []
    with pytest.raises(ConnectionResetError, match="went away"):
        found.extend(read_source(source, SourceConfig()))


ATTACKS = """
import pathlib, sys
from llama3_jax.curation.sources import SourceConfig, list_sources, read_source
sources = list_sources([sys.argv[1]])
peak = lambda: int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
found = [item[2] for source in sources for item in read_source(source, SourceConfig(max_bytes=4 << 20))]
print(*found, (peak() - before) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_bounded_under_attack(tmp_path):
    """Each file by itself would need 48 MB if it were read whole; all budgets are 4 MiB."""
    size = 48_000_000
    zeros = zlib.compressobj(wbits=31, level=1)
    bomb = zeros.compress(b"\0" * size) + zeros.flush()
    attacks = {
        "a.html": b"<p>" * (size // 3),
        "b.jsonl": b'{"text": "' + b"x" * size + b'"}',
        "c.jsonl": b"x" * size,
        "d.jsonl.gz": bomb,
        "e.warc.gz": bomb,
        "f.warc": record(1, http(bomb, "Content-Encoding: gzip")),
        "g.warc": record(1, http(b"x" * size)),
        "h.warc": b"x" * size,
        "i.warc.gz": gzip.compress(record(1, http(b"x" * size)), 1),
        "j.warc": b"WARC/1.0\r\n" + b"Header: x\r\n" * (size // 11),
        "k.warc": b"\r\n" * (size // 2),
        "l.warc": b"\nWARC/1.0" * (size // 900),
    }
    for name, data in attacks.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", ATTACKS, str(tmp_path)]
    *found, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(found) >= len(attacks) - 1 and set(found) <= {"too_large", "ratio", "header", "http", "json"}, found
    assert int(grown) < 30, f"{grown} MiB"


def test_bytes_of_every_kind_reach_the_page(tmp_path):
    """Decoding is the extractor's: NULs and bytes that are no UTF-8 pass through untouched."""
    content = bytes(range(256)) * 100
    (tmp_path / "a.html").write_bytes(content)
    (tmp_path / "b.warc").write_bytes(record(1, http(content)))
    assert [found.content for found in everything([tmp_path])] == [content, content]
    lossy = record(1, http(b"x")).replace(b"http://example.com/1", b"http://example.com/\xff")
    (tmp_path / "b.warc").write_bytes(lossy)
    found: Any
    (found,) = read_source(SourceFile(str(tmp_path / "b.warc"), "b.warc", 0), SourceConfig())
    assert found.url == "http://example.com/\ufffd"

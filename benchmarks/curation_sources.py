"""How fast are raw pages read, searched for personal identifiers, and looked up in lists of domains and words?

Makes a crawl of pages from the sources of Python's standard library (each with its request and metadata records, as
crawlers write them) and measures on one core, best of a few:

  read    pages of .warc, .warc.gz and .warc.zst: ours, which checks every record's end and every checksum, against
          warcio and bare fastwarc, which do not go on behind damage; MB are of uncompressed WARC
  pii     identifiers in that text, in prose without digits and `@`, and in a worst case: telephone numbers only
  urls    look-ups in a list of 400,000 hosts, in batches of 2,000 URLs of 500 hosts, a tenth of them listed
  words   density of words of a list

Prints one JSON line. Times are of the process, so that a busy machine distorts them less.

    python -m benchmarks.curation_sources [--pages 1500] [--repeats 5]
"""

import argparse
import gzip
import html
import json
import os
import pathlib
import random
import sysconfig
import tempfile
from collections.abc import Callable
from typing import Any

import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType

from benchmarks.processor_time import best_of
from llama3_jax.curation.adult import SAMPLE, AdultWords
from llama3_jax.curation.domains import DomainLists
from llama3_jax.curation.pii import find_pii
from llama3_jax.curation.sources import Page, SourceConfig, list_sources, read_source
from llama3_jax.curation.text_batch import TextBatch

try:
    from warcio import archiveiterator  # pyright: ignore[reportMissingImports]
except ImportError:
    archiveiterator: Any = None


def sources_of_the_standard_library(count: int) -> list[str]:
    """Texts of up to 60,000 characters."""
    files = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py"))[:count]
    return [file.read_text(encoding="utf-8", errors="replace")[:60_000] for file in files]


def record(kind: str, number: int, block: bytes, media: str) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2023-04-05T06:07:08Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{number:032x}>\r\nWARC-Target-URI: http://example.com/{number}\r\n"
        f"Content-Type: {media}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def crawl(texts: list[str]) -> list[bytes]:
    """Three records a page."""
    records = []
    for number, text in enumerate(texts):
        body = f"<html><body><pre>{html.escape(text)}</pre></body></html>".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
        media = "application/http; msgtype="
        records.append(record("request", number, b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", media + "request"))
        records.append(record("response", number, head.encode() + body, media + "response"))
        records.append(record("metadata", number, b"fetchTimeMs: 7\r\n", "application/warc-fields"))
    return records


def read_with_ours(path: str) -> int:
    (source,) = list_sources([path])
    return sum(len(page.content) for page in read_source(source, SourceConfig()) if isinstance(page, Page))


def read_with_warcio(path: str) -> int:
    size = 0
    with open(path, "rb") as file:
        for found in archiveiterator.ArchiveIterator(file):
            if found.rec_type == "response":
                assert found.rec_headers["WARC-Target-URI"]
                size += len(found.content_stream().read())
    return size


def read_with_fastwarc(path: str) -> int:
    size = 0
    with open(path, "rb") as file:
        for found in ArchiveIterator(file, record_types=WarcRecordType.response):
            assert found.headers.get("WARC-Target-URI")
            size += len(found.reader.read())
    return size


READERS = {"ours": read_with_ours, "fastwarc": read_with_fastwarc} | (
    {"warcio": read_with_warcio} if archiveiterator else {}
)


def seconds(task: Callable[[], object], repeats: int) -> float:
    return best_of(repeats, task)[0]


def measure_readers(texts: list[str], folder: str, repeats: int) -> dict[str, dict]:
    records = crawl(texts)
    size = sum(map(len, records))
    forms = {"warc": bytes, "warc.gz": gzip.compress, "warc.zst": zstandard.compress}
    found = {}
    for suffix, compress in forms.items():
        path = os.path.join(folder, f"crawl.{suffix}")
        pathlib.Path(path).write_bytes(b"".join(map(compress, records)))
        readers = {name: read for name, read in READERS.items() if name != "warcio" or suffix != "warc.zst"}
        assert len({read(path) for read in readers.values()}) == 1
        times = {name: seconds(lambda read=read, path=path: read(path), repeats) for name, read in readers.items()}
        found[suffix] = {
            name: {"records_per_s": round(len(records) / spent), "mb_per_s": round(size / spent / 1e6)}
            for name, spent in times.items()
        }
        if "warcio" in times:
            found[suffix]["times_warcio"] = round(times["warcio"] / times["ours"], 2)
    return found


def measure_identifiers(texts: list[str], repeats: int) -> dict[str, float]:
    """MB/s, of characters."""
    prose = ["".join(letter for letter in text if letter not in "0123456789@:") for text in texts]
    numbers = ["+49 30 1234567, (212) 555-0143, " * 30_000]
    cases = {"text": texts, "without_digits": prose, "telephone_numbers_only": numbers}
    return {
        name: round(sum(map(len, case)) / 1e6 / seconds(lambda case=case: find_pii(case), repeats), 1)
        for name, case in cases.items()
    }


def measure_look_ups(repeats: int) -> dict[str, float]:
    """Thousands of URLs a second."""
    chance = random.Random(0)
    lines = [("", f"adult .site{n}.example.com") for n in range(200_000)]
    lines += [("", f"pii host{n}.test") for n in range(200_000)]
    lists, words = DomainLists.parse(lines), AdultWords.load(SAMPLE)
    batches = []
    for _ in range(20):
        hosts = [f"www.site{chance.randrange(2_000_000)}.example.com" for _ in range(500)]
        batches.append([f"https://{chance.choice(hosts)}/path/of/page{n}.html?q=1" for n in range(2000)])
    count, no_language = sum(map(len, batches)) / 1e3, [""] * 2000
    return {
        "domains": round(count / seconds(lambda: [lists.scores(batch) for batch in batches], repeats)),
        "words": round(count / seconds(lambda: [words.url_scores(batch, no_language) for batch in batches], repeats)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    texts = sources_of_the_standard_library(options.pages)
    words = AdultWords.load(SAMPLE)
    size = sum(map(len, texts)) / 1e6
    adult = lambda: words.scores(TextBatch.of(texts), [""] * len(texts))
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "benchmark": "curation_sources",
            "pages": len(texts),
            "text_mb": round(size, 1),
            "read": measure_readers(texts, folder, options.repeats),
            "pii_mb_per_s": measure_identifiers(texts, options.repeats),
            "thousand_urls_per_s": measure_look_ups(options.repeats),
            "word_density_mb_per_s": round(size / seconds(adult, options.repeats), 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""JSON lines and Parquet: rows become pages, bad rows become casualties, and the rest of the file is read."""

import collections
import datetime
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.sources import Page, SourceConfig
from llama3_jax.curation.sources.members import Damage
from llama3_jax.curation.sources.rows import _bounded_lines, _Lost, read_json_lines
from tests.curation.sources.archives import read, reasons

MOMENT = datetime.datetime(2023, 4, 5, 6, 7, 8, tzinfo=datetime.UTC)
ROWS = [{"url": f"http://example.com/{number}", "text": f"text {number} ü😀"} for number in range(5)]
PAGES = [Page(row["url"], None, row["text"].encode(), "text/plain", "utf-8", {}) for row in ROWS]


def jsonl(rows: list) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(rows: list[dict] | pa.Table, **options) -> bytes:
    buffer = io.BytesIO()
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, buffer, row_group_size=2, **options)
    return buffer.getvalue()


FORMS = {
    ".jsonl": jsonl,
    ".jsonl.gz": lambda rows: gzip.compress(jsonl(rows[:2])) + gzip.compress(jsonl(rows[2:])),
    ".jsonl.zst": lambda rows: zstandard.compress(jsonl(rows[:2])) + zstandard.compress(jsonl(rows[2:])),
    ".parquet": parquet,
}
every_form = pytest.mark.parametrize("name", FORMS)


@every_form
def test_rows_of_every_form(tmp_path, name):
    assert read(tmp_path, name, FORMS[name](ROWS)) == (PAGES, [])


@every_form
def test_fields(tmp_path, name):
    rows = [
        {"url": "http://example.com/a", "date": "2023-04-05T06:07:08Z", "html": "<p>ü", "text": "other"},
        {"url": None, "date": None, "html": "", "text": "only text"},
        {"url": None, "date": "2023-04-05", "html": None, "text": " \n"},
    ]
    pages, casualties = read(tmp_path, name, FORMS[name](rows))
    first = Page("http://example.com/a", MOMENT, "<p>ü".encode(), "text/html", "utf-8", {})
    assert (pages, casualties) == ([first, Page("", None, b"only text", "text/plain", "utf-8", {})], [])
    renamed = [{"u": row["url"], "d": row["date"], "h": row["html"], "t": row["text"]} for row in rows]
    names = {"url_field": "u", "date_field": "d", "html_field": "h", "text_field": "t"}
    assert read(tmp_path, name, FORMS[name](renamed), **names) == (pages, casualties)
    _, casualties = read(tmp_path, name, FORMS[name](renamed))
    assert reasons(casualties) == ["field"] * (1 if name == ".parquet" else 3)


def test_bad_lines(tmp_path):
    bad = {
        b"{": "json",
        b"[" * 200_000: "json",
        b'"text"': "field",
        b"[]": "field",
        b'{"url": "u"}': "field",
        b'{"text": 5}': "field",
        b'{"text": "t", "url": 5}': "field",
        b'{"text": "t", "date": "tomorrow"}': "date",
        b'{"text": "t", "date": true}': "date",
        b'{"text": "t", "date": [1]}': "date",
        b'{"text": "t", "date": 1e300}': "date",
        b'{"text": "\xff\xfe"}': "json",
        b"1" * 10_000: "json",
        b'{"text": "' + b"x" * 2_000_000 + b'"}': "too_large",
        b"\0\0\0": "json",
    }
    lines = [part for line in bad for part in (line, jsonl(ROWS[:1]).rstrip(), b"", b"  ")]
    pages, casualties = read(tmp_path, ".jsonl", b"\n".join(lines), max_bytes=1_000_000)
    assert pages == PAGES[:1] * len(bad)
    assert reasons(casualties) == list(bad.values())
    assert [int(casualty.place) for casualty in casualties] == list(range(1, 4 * len(bad), 4))


def test_surrogates_and_byte_order_marks(tmp_path):
    lines = b'\xef\xbb\xbf{"text": "Gr\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n'
    pages, casualties = read(tmp_path, ".jsonl", lines)
    assert [page.content.decode() for page in pages] == ["Gr\ufffd", "😀"] and not casualties


@pytest.mark.parametrize("name", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_file_that_is_cut_short(tmp_path, name):
    data = FORMS[name](ROWS)
    for cut in range(1, len(data)):
        pages, casualties = read(tmp_path, name, data[:cut])
        assert pages == PAGES[: len(pages)]
        assert set(reasons(casualties)) <= {"json", "truncated"}
        # Between lines nothing shows that there were more, and between members neither.
        assert casualties or len(pages) in (2, 5) or name == ".jsonl"


def test_a_corrupt_member_costs_its_lines_only(tmp_path):
    first, second, third = (gzip.compress(jsonl(ROWS[part : part + 1]) * 50) for part in range(3))
    spoiled = second[:20] + b"\xff" * 9 + second[29:]
    pages, casualties = read(tmp_path, ".jsonl.gz", first + spoiled + third)
    assert [page for page in pages if page == PAGES[0]] == PAGES[:1] * 50
    assert [page for page in pages if page == PAGES[2]] == PAGES[2:3] * 50
    assert reasons(casualties)[0] == "corrupt"


def test_bombs(tmp_path):
    bomb = b'{"text": "' + b"x" * 60_000_000 + b'"}\n'
    for name, compress in ((".jsonl.gz", gzip.compress), (".jsonl.zst", zstandard.compress)):
        data = compress(jsonl(ROWS[:2])) + compress(bomb) + compress(jsonl(ROWS[2:]))
        pages, casualties = read(tmp_path, name, data)
        assert pages == PAGES and casualties[0].reason in ("ratio", "too_large")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=30), st.just(Damage(0, "corrupt", "", True)), st.just(b"\n"))))
def test_lines_do_not_depend_on_chunks(chunks):
    found = list(_bounded_lines(iter(chunks), 8))
    parts = [[]]
    for chunk in chunks:
        if isinstance(chunk, Damage):
            parts.append([])
        else:
            parts[-1].append(chunk)
    expected = []
    for index, part in enumerate(parts):
        *lines, tail = b"".join(part).split(b"\n")
        expected += [line if len(line) <= 8 else "too_large" for line in lines]
        if index < len(parts) - 1:
            expected.append("corrupt")
        elif tail:
            expected.append(tail if len(tail) <= 8 else "too_large")
    assert [line.reason if isinstance(line, _Lost) else line for line in found] == expected


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_stop_the_reader(data):
    list(read_json_lines(iter([data]), "a", SourceConfig(), collections.Counter()))


# Parquet


def test_types_of_columns(tmp_path):
    text = [row["text"] for row in ROWS]
    for kind in (
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ):
        table = pa.table({"text": pa.array(text).cast(kind), "n": list(range(5))})
        pages, casualties = read(tmp_path, ".parquet", parquet(table))
        assert [page.content.decode() for page in pages] == text and not casualties
    html = pa.table({"html": pa.array([b"\xff\xfe<p>"], pa.binary())})
    assert read(tmp_path, ".parquet", parquet(html)) == ([Page("", None, b"\xff\xfe<p>", "text/html", None, {})], [])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([MOMENT], pa.timestamp("us", "UTC")),
        pa.array([MOMENT], pa.timestamp("s", "Asia/Tokyo")),
        pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ms")),
        pa.array([int(MOMENT.timestamp())]),
        pa.array(["2023-04-05 06:07:08"]),
    ],
)
def test_dates_of_columns(tmp_path, column):
    (page,), _ = read(tmp_path, ".parquet", parquet(pa.table({"text": ["t"], "date": column})))
    assert page.date == MOMENT and str(page.date).endswith("+00:00")


def test_rows_that_are_bad(tmp_path):
    table = pa.table({"text": ["a", "b", "c", "d" * 300], "date": ["2020-01-01", "never", None, None]})
    pages, casualties = read(tmp_path, ".parquet", parquet(table), max_bytes=200)
    assert [page.content for page in pages] == [b"a", b"c"]
    assert [(casualty.reason, casualty.place) for casualty in casualties] == [("date", "2"), ("too_large", "4")]
    _, casualties = read(tmp_path, ".parquet", parquet(pa.table({"text": [1, 2]})))
    assert reasons(casualties) == ["field", "field"]


@pytest.mark.parametrize("data", [b"", b"hello" * 100, parquet(ROWS)[:-50]])
def test_a_file_that_is_no_parquet(tmp_path, data):
    pages, casualties = read(tmp_path, ".parquet", data)
    assert not pages and reasons(casualties) == ["parquet"]


def test_a_row_group_that_is_corrupt(tmp_path):
    rows = [{"text": f"{number}" * 5000} for number in range(6)]
    data = bytearray(parquet(rows, compression="zstd", use_dictionary=False))
    place = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0).data_page_offset
    data[place + 30 : place + 60] = b"\xff" * 30
    pages, casualties = read(tmp_path, ".parquet", bytes(data))
    assert [page.content[:1] for page in pages] == [b"0", b"1", b"4", b"5"]
    assert [(casualty.reason, casualty.place) for casualty in casualties] == [("parquet", "row group 1")]

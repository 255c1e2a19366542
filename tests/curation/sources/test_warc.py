"""WARC: every damage costs the record it hits, is counted with its reason, and nothing else is lost."""

import collections
import datetime
import gzip
import io
import pathlib
import random
import tempfile
import zlib
from typing import Any

import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.sources import CASUALTIES, Casualty, Page, SourceConfig
from llama3_jax.curation.sources.members import gzip_members, zstd_frames
from llama3_jax.curation.sources.warc import read_warc
from tests.curation.sources.archives import (
    FORMS,
    body,
    gzip_each,
    gzip_whole,
    http,
    numbers,
    page,
    plain,
    read,
    reasons,
    record,
    zstd_each,
)

PAGES = [page(number) for number in range(6)]
BODIES = [body(number) for number in range(6)]
MEMBERS = [
    (victim, read_members, compress)
    for read_members, compress in ((gzip_members, gzip.compress), (zstd_frames, zstandard.compress))
    for victim in range(6)
]
every_form = pytest.mark.parametrize("name", FORMS)


@every_form
def test_records_of_every_form(tmp_path, name):
    pages, casualties = read(tmp_path, name, FORMS[name](PAGES))
    assert numbers(pages) == [0, 1, 2, 3, 4, 5] and not casualties
    assert pages[0]._replace(content=b"") == Page(
        "http://example.com/0",
        datetime.datetime(2023, 4, 5, 6, 7, 8, tzinfo=datetime.UTC),
        b"",
        "text/html",
        "utf-8",
        {"warc-record-id": "<urn:uuid:0>"},
    )


def test_only_pages_are_read_and_the_rest_is_counted(tmp_path):
    records = [
        record(0, b"software: by hand\r\n", kind="warcinfo"),
        record(1, b"GET / HTTP/1.1\r\n\r\n", kind="request"),
        page(2),
        record(3, http(b"gone", status="404 Not Found")),
        record(4, http(b"\x89PNG", kind="image/png")),
        record(5, http(body(5), kind="TEXT/Plain")),
        record(6, http(body(6), kind='application/xhtml+xml;charset="ISO-8859-1"')),
        record(7, b"0 example.com").replace(b"application/http", b"text/dns"),
        record(8, http(body(8), kind="")).replace(
            b"WARC-Date", b"WARC-Identified-Payload-Type: text/html\r\nWARC-Date"
        ),
        record(9, b"", kind="metadata"),
    ]
    (tmp_path / "a.warc").write_bytes(plain(records))
    counts = collections.Counter()
    found: list[Any] = list(read_warc(iter([plain(records)]), "a.warc", SourceConfig(), counts))
    assert numbers(found) == [2, 5, 6, 8]
    assert [item.charset for item in found] == ["utf-8", None, "ISO-8859-1", None]
    assert [item.content_type for item in found][1:3] == ["text/plain", "application/xhtml+xml"]
    assert counts == {"not_response": 4, "status": 1, "media_type": 1}


def test_lines_may_end_without_carriage_return_and_urls_stand_in_brackets(tmp_path):
    one = page(1).replace(b"\r\n", b"\n")  # of the WARC header too, whose length does not change
    one = one.replace(b"http://example.com/1", b"<http://example.com/1>")
    block = one.partition(b"\n\n")[2].removesuffix(b"\n\n")
    one = record(1, block).replace(b"\r\n", b"\n")
    pages, casualties = read(tmp_path, ".warc", page(0) + one + page(2))
    assert [item.url[-1] for item in pages] == ["0", "1", "2"] and not casualties


@pytest.mark.parametrize("date", ["2023-13-77T00:00:00Z", "yesterday", "99999999999999999999", "2023-04-05T06:07:08Z+"])
def test_a_date_that_is_none_costs_the_record(tmp_path, date):
    pages, casualties = read(tmp_path, ".warc", page(0) + page(1, date=date) + page(2))
    assert numbers(pages) == [0, 2] and reasons(casualties) == ["date"]


@pytest.mark.parametrize(
    ("date", "expected"),
    [("", None), ("2023-04-05T06:07:08.123456789Z", (6, 7, 8, 123456)), ("2023-04-05T08:07:08+02:00", (6, 7, 8))],
)
def test_dates(tmp_path, date, expected):
    (found,), _ = read(tmp_path, ".warc", page(0, date=date))
    assert found.date == (expected and datetime.datetime(2023, 4, 5, *expected, tzinfo=datetime.UTC))


# Damage


@every_form
@pytest.mark.parametrize(
    ("length", "reason"), [(60, "length"), (4000, "length"), (10**9, "too_large"), (-5, "header"), (10**25, "header")]
)
def test_wrong_lengths(tmp_path, name, length, reason):
    pages, casualties = read(tmp_path, name, FORMS[name]([*PAGES[:2], page(9, length=length), *PAGES[2:]]))
    assert numbers(pages) == [0, 1, 2, 3, 4, 5]
    assert [(casualty.reason, casualty.place) for casualty in casualties] == [(reason, str(2 * len(PAGES[0])))]


@every_form
def test_the_last_record_claims_too_much(tmp_path, name):
    pages, casualties = read(tmp_path, name, FORMS[name]([*PAGES, page(9, length=8000)]))
    assert numbers(pages) == [0, 1, 2, 3, 4, 5] and reasons(casualties) == ["truncated"]


@every_form
@pytest.mark.parametrize("junk", [b"junk\r\n\r\n", b"\0" * 100_000, b"WARC/1.0\r\nno end of a header" * 9999])
def test_junk_between_records(tmp_path, name, junk):
    pages, casualties = read(tmp_path, name, FORMS[name]([*PAGES[:2], junk + b"\r\n", *PAGES[2:]]))
    assert numbers(pages) == [0, 1, 2, 3, 4, 5] and reasons(casualties) == ["header"]


@every_form
@pytest.mark.parametrize("data", [b"", b"\r\n\r\n"])
def test_nothing_inside(tmp_path, name, data):
    assert read(tmp_path, name, FORMS[name]([data])) == ([], [])


@pytest.mark.parametrize("make", [gzip_each, zstd_each])
def test_junk_between_members(tmp_path, make):
    data = make(PAGES[:2]) + b"junk" * 100 + make(PAGES[2:])
    pages, casualties = read(tmp_path, ".warc.gz" if make is gzip_each else ".warc.zst", data)
    assert numbers(pages) == [0, 1, 2, 3, 4, 5] and reasons(casualties) == ["corrupt"]


def test_padding_behind_members_is_no_damage(tmp_path):
    assert read(tmp_path, ".warc.gz", gzip_each(PAGES) + b"\0" * 5000)[1] == []


def test_a_corrupt_member_costs_its_record(tmp_path):
    for victim in range(6):
        for where in (0, 3, 40, 1000, -6):  # magic, flags, data, data, checksum
            members = [bytearray(gzip.compress(data)) for data in PAGES]
            members[victim][where] ^= 0xFF
            pages, casualties = read(tmp_path, ".warc.gz", b"".join(members))
            assert numbers(pages) == [number for number in range(6) if number != victim], (victim, where)
            assert reasons(casualties) in (["corrupt"], ["truncated"]), (victim, where)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_happens_to_a_member_costs_its_record_only(data):
    """Also when a damaged header claims the members behind it, as with gzip's extra field."""
    victim, read_members, compress = data.draw(st.sampled_from(MEMBERS))
    members = [compress(content) for content in PAGES]
    spoiled = bytearray(members[victim])
    place = data.draw(st.integers(0, len(spoiled) - 1) | st.integers(0, 15))
    spoiled[place : place + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    members[victim] = bytes(spoiled)
    chunks = read_members(io.BytesIO(b"".join(members)), SourceConfig())
    found = list(read_warc(chunks, "a", SourceConfig(), collections.Counter()))
    pages = [item for item in found if isinstance(item, Page)]
    others = [item for item in pages if item.url != f"http://example.com/{victim}" and item.content in BODIES]
    assert numbers(others) == [number for number in range(6) if number != victim]
    assert len(pages) + 1 >= 6


def test_a_checksum_that_fails_behind_many_chunks(tmp_path):
    """Data are handed on before the checksum is seen, yet the page is not."""
    large = record(7, http(random.Random(1).randbytes(3_000_000)))
    member = bytearray(gzip.compress(large))
    member[-6] ^= 1
    data = gzip.compress(PAGES[0]) + member + gzip.compress(PAGES[2])
    pages, casualties = read(tmp_path, ".warc.gz", data)
    assert numbers(pages) == [0, 2] and reasons(casualties) == ["corrupt"]
    pages, casualties = read(tmp_path, ".warc.gz", data[: -len(gzip.compress(PAGES[2])) - 8])
    assert numbers(pages) == [0] and reasons(casualties) == ["truncated"]


@pytest.mark.parametrize("make", [gzip_each, gzip_whole, zstd_each, plain])
def test_files_cut_anywhere(tmp_path, make):
    name = {gzip_each: ".warc.gz", gzip_whole: ".warc.gz", zstd_each: ".warc.zst", plain: ".warc"}[make]
    data = make(PAGES[:3])
    ends = [len(make(PAGES[:count])) for count in range(4)]
    for cut in sorted({*range(1, len(data), 61), *range(len(data) - 12, len(data))}):
        pages, casualties = read(tmp_path, name, data[:cut])
        if make is gzip_whole:
            assert numbers(pages) == [0, 1, 2][: len(pages)]
            assert reasons(casualties) == ["truncated"], cut
            continue
        whole = sum(end <= cut for end in ends[1:])
        blank = 4 if make is plain else 0  # the line ends behind a record, without which it is complete
        assert numbers(pages) == [0, 1, 2][: sum(end - blank <= cut for end in ends[1:])], cut
        lost = cut > ends[whole] and len(pages) == whole
        assert reasons(casualties) in ([["truncated"], ["header"]] if lost else [[]]), cut


def test_a_gzip_bomb_is_given_up_and_the_next_record_read(tmp_path):
    bomb = record(7, http(b"\0" * 100_000_000))
    for make, name in ((gzip_each, ".warc.gz"), (zstd_each, ".warc.zst")):
        pages, casualties = read(tmp_path, name, make([PAGES[0], bomb, PAGES[1]]))
        assert numbers(pages) == [0, 1] and len(casualties) == 1
        assert casualties[0].reason in ("ratio", "too_large")


def test_a_large_record_is_passed_over(tmp_path):
    large = record(7, http(random.Random(1).randbytes(3_000_000)))
    for name, make in FORMS.items():
        pages, casualties = read(tmp_path, name, make([PAGES[0], large, PAGES[1]]), max_bytes=1_000_000)
        assert numbers(pages) == [0, 1] and reasons(casualties) == ["too_large"]


def test_dictionaries_of_zstandard(tmp_path):
    dictionary = zstandard.train_dictionary(4096, [page(n)[:300] + bytes([n % 256]) * n for n in range(300)])
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    frames = b"".join(compressor.compress(data) for data in PAGES)
    for content in (dictionary.as_bytes(), zstandard.compress(dictionary.as_bytes())):
        head = (0x184D2A5D).to_bytes(4, "little") + len(content).to_bytes(4, "little") + content
        pages, casualties = read(tmp_path, ".warc.zst", head + frames)
        assert numbers(pages) == [0, 1, 2, 3, 4, 5] and not casualties
        for spoiled in (head[:8] + head[8:12] + b"\xff" * (len(content) - 4), head[:4] + b"\xff" * 4 + content):
            pages, casualties = read(tmp_path, ".warc.zst", spoiled + frames)
            assert not pages and casualties and set(reasons(casualties)) <= {"corrupt", "truncated"}
    huge = zstandard.ZstdCompressor(write_content_size=True).compress(b"\0" * 100_000_000)
    head = (0x184D2A5D).to_bytes(4, "little") + len(huge).to_bytes(4, "little") + huge
    assert numbers(read(tmp_path, ".warc.zst", head + zstd_each(PAGES))[0]) == [0, 1, 2, 3, 4, 5]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_happens_to_bytes_the_reader_comes_to_an_end(data):
    content = bytearray(plain(PAGES[:3]))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 300))] = data.draw(st.binary(max_size=300))
    sizes = data.draw(st.lists(st.integers(1, 2000), min_size=1))
    chunks, rest = [], bytes(content)
    while rest:
        chunks.append(rest[: sizes[len(chunks) % len(sizes)]])
        rest = rest[len(chunks[-1]) :]
    once = list(read_warc(iter(chunks), "a", SourceConfig(), collections.Counter()))
    assert once == list(read_warc(iter([bytes(content)]), "a", SourceConfig(), collections.Counter()))
    assert all(item.reason in CASUALTIES for item in once if isinstance(item, Casualty))


# The body


def brotli(data: bytes) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        with BrotliWriter(file.name) as writer:
            writer.write(data)
        return pathlib.Path(file.name).read_bytes()


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


def chunked(data: bytes, size: int = 700) -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%X;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli,
    "zstd": zstandard.compress,
    "identity": bytes,
    "unknown": bytes,
    "gzip, br": lambda data: brotli(gzip.compress(data)),
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("transfer", [True, False])
def test_encodings_of_bodies(tmp_path, coding, transfer):
    encoded = CODINGS[coding](body(1))
    headers = [f"Content-Encoding: {coding}"] + ["Transfer-Encoding: chunked"] * transfer
    data = record(1, http(chunked(encoded) if transfer else encoded, *headers))
    pages, casualties = read(tmp_path, ".warc", PAGES[0] + data + PAGES[2])
    assert numbers(pages) == [0, 1, 2] and not casualties


@pytest.mark.parametrize(
    "header", [*(f"Content-Encoding: {coding}" for coding in CODINGS), "Transfer-Encoding: chunked"]
)
def test_bodies_that_are_already_decoded(tmp_path, header):
    (found,), casualties = read(tmp_path, ".warc", record(1, http(body(1), header)))
    assert found.content == body(1) and not casualties


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_bodies_that_do_not_decode(tmp_path, coding):
    encoded = CODINGS[coding](body(1) * 20)
    for data in (encoded[: len(encoded) // 2], encoded[:4] + b"\xff" * 50 + encoded[54:]):
        bad = record(1, http(data, f"Content-Encoding: {coding}"))
        pages, casualties = read(tmp_path, ".warc", PAGES[0] + bad + PAGES[2])
        assert numbers(pages) == [0, 2] and reasons(casualties) in (["corrupt"], ["truncated"])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_bombs_in_bodies(tmp_path, coding):
    bomb = record(1, http(CODINGS[coding](b"\0" * 60_000_000), f"Content-Encoding: {coding}"))
    pages, casualties = read(tmp_path, ".warc", PAGES[0] + bomb + PAGES[2])
    assert numbers(pages) == [0, 2] and reasons(casualties) in (["ratio"], ["too_large"])
    small = record(1, http(CODINGS[coding](b"<p>" + b" " * 900_000), f"Content-Encoding: {coding}"))
    assert len(read(tmp_path, ".warc", small)[0]) == 1


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (http(b"10\r\nshort", "Transfer-Encoding: chunked"), "truncated"),
        (http(b"4\r\nfour\r\nnot a size", "Transfer-Encoding: chunked"), "http"),
        (b"<p>no HTTP</p>", "http"),
        (b"HTTP/1.1 200 OK", "http"),
        (b"", "http"),
        (b"\0" * 5000, "http"),
    ],
)
def test_responses_that_are_none(tmp_path, block, reason):
    pages, casualties = read(tmp_path, ".warc", PAGES[0] + record(1, block) + PAGES[2])
    assert numbers(pages) == [0, 2] and reasons(casualties) == [reason]

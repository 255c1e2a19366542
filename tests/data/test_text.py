"""Corpus readers: every format gives the same documents, and every way of being damaged is named."""

import collections
import gzip
import io
import json
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from llama3_jax.data import text as subject
from llama3_jax.data.text import Document, read_documents

TEXTS = ["first\nline two", "zweites Dokument: Übung", "三つ目 😀", "x" * 300_000, "last"]


def jsonl(texts: list, field: str = "text") -> bytes:
    return b"".join(json.dumps({"id": 1, field: text}).encode() + b"\n" for text in texts)


def parquet(texts: list, kind: pa.DataType | None = None, field: str = "text") -> bytes:
    column = pa.array(texts, pa.string()) if kind is None else pa.array(texts, pa.string()).cast(kind)
    buffer = io.BytesIO()
    table = pa.table({"n": list(range(len(texts))), field: column})
    pq.write_table(table, buffer, row_group_size=2)
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def read(path, **settings) -> list[Document]:
    return list(read_documents([path], **settings))


def write(path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.py", "A.TXT"])
def test_a_text_file_is_one_document(tmp_path, name):
    path = write(tmp_path / name, b"\xef\xbb\xbfone\r\n\r\ntw\xc3\xb6\n")
    assert read(path) == [Document(path, "one\r\n\r\ntwö\n")]


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".jsonl", jsonl(TEXTS)),
        (".jsonl", b"\xef\xbb\xbf" + jsonl(TEXTS)[:-1]),  # byte order mark, no newline at the end
        (".jsonl.gz", gzip.compress(jsonl(TEXTS))),
        (".jsonl.gz", gzip.compress(jsonl(TEXTS[:2])) + gzip.compress(jsonl(TEXTS[2:]))),
        (".jsonl.zst", zstd(jsonl(TEXTS))),
        (".jsonl.zst", zstd(jsonl(TEXTS[:2])) + zstd(b"") + zstd(jsonl(TEXTS[2:]))),
        (".jsonl.zst", b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd(jsonl(TEXTS))),  # a skippable frame, as of pzstd
        (".parquet", parquet(TEXTS)),
        (".parquet", parquet(TEXTS, pa.large_string())),
        (".parquet", parquet(TEXTS, pa.binary())),
        (".parquet", parquet(TEXTS, pa.dictionary(pa.int32(), pa.string()))),
    ],
)
def test_every_format_gives_the_same_documents(tmp_path, suffix, data):
    path = write(tmp_path / f"corpus{suffix}", data)
    assert read(path) == [Document(f"{path}:{number}", text) for number, text in enumerate(TEXTS, 1)]


@pytest.mark.parametrize(("suffix", "make"), [(".jsonl", jsonl), (".parquet", parquet)])
def test_empty_documents_are_left_out_and_still_counted_in_ids(tmp_path, suffix, make):
    path = write(tmp_path / f"a{suffix}", make(["", None, " \n", "text", "", "more"]))
    assert [(document.id, document.text) for document in read(path)] == [(f"{path}:4", "text"), (f"{path}:6", "more")]


def test_blank_lines_between_records(tmp_path):
    path = write(tmp_path / "a.jsonl", b"\n" + jsonl(["one"]) + b"  \r\n" + jsonl(["two"]))
    assert [document.id for document in read(path)] == [f"{path}:2", f"{path}:4"]


def test_another_field(tmp_path):
    paths = [write(tmp_path / "a.jsonl", jsonl(["one"], "content"))]
    paths.append(write(tmp_path / "a.parquet", parquet(["two"], field="content")))
    assert [document.text for document in read_documents(paths, field="content")] == ["one", "two"]


def test_parquet_is_read_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "_PARQUET_ROWS", 3)
    path = write(tmp_path / "a.parquet", parquet([str(number) for number in range(10)]))
    assert [document.text for document in read(path)] == [str(number) for number in range(10)]


def test_folders_are_read_in_sorted_order(tmp_path):
    for name in ("b/z.txt", "b/a.jsonl", "a.txt", "c.md", "b/deep/er/x.py", "skip.bin", ".hidden.txt", ".git/x.txt"):
        write(tmp_path / name, jsonl([name]) if name.endswith("jsonl") else name.encode())
    names = [document.text for document in read(str(tmp_path))]
    assert names == ["a.txt", "b/a.jsonl", "b/deep/er/x.py", "b/z.txt", "c.md"]
    assert [document.id for document in read(f"{tmp_path}/")][0] == f"{tmp_path}/a.txt"
    given_order = [str(tmp_path / "c.md"), tmp_path / "a.txt"]
    assert [document.text for document in read_documents(given_order)] == ["c.md", "a.txt"]


def test_fsspec_urls(tmp_path):
    with fsspec.open("memory://corpus/deep/b.jsonl.gz", "wb") as file:
        file.write(gzip.compress(jsonl(["two"])))
    with fsspec.open("memory://corpus/a.txt", "wb") as file:
        file.write(b"one")
    expected = [Document("memory://corpus/a.txt", "one"), Document("memory://corpus/deep/b.jsonl.gz:1", "two")]
    assert read("memory://corpus") == expected
    assert read("memory://corpus/a.txt") == expected[:1]


def test_url_without_its_package_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match="gs://bucket/a.txt: reading it needs another package.*gcsfs"):
        read_documents(["gs://bucket/a.txt"])
    with pytest.raises(ValueError, match="nosuch://a.txt: Protocol not known"):
        read_documents(["nosuch://a.txt"])


# Bytes that are no text

LATIN = "Grüße".encode("latin-1")


def bad_corpora() -> dict[str, bytes]:
    """Each holds "good", then a document that is not valid Unicode."""
    surrogate = b'{"text": "Gr\\ud83d"}\n'
    strings = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0\x09\0\0\0"), pa.py_buffer(b"good" + LATIN)]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": strings}), buffer)
    return {
        "raw.jsonl": jsonl(["good"]) + b'{"text": "' + LATIN + b'"}\n',
        "escape.jsonl": jsonl(["good"]) + surrogate,
        "zipped.jsonl.gz": gzip.compress(jsonl(["good"]) + surrogate),
        "rows.parquet": buffer.getvalue(),
    }


@pytest.mark.parametrize("name", bad_corpora())
def test_text_that_is_no_unicode(tmp_path, name):
    path = write(tmp_path / name, bad_corpora()[name])
    documents = read_documents([path])
    assert next(documents).text == "good"
    with pytest.raises(ValueError, match=f"{name}:2: not valid UTF-8 text: .* position 1?2:"):
        next(documents)

    good, replaced = read(path, errors="replace")
    assert replaced.text.startswith("Gr\ufffd") and replaced.id == f"{path}:2"
    replaced.text.encode()

    skipped = collections.Counter()
    assert read(path, errors="skip", skipped=skipped) == [good]
    assert skipped == {path: 1}


def test_text_file_that_is_no_utf8_names_the_byte(tmp_path):
    path = write(tmp_path / "latin.txt", b"x" * 1000 + LATIN)
    with pytest.raises(ValueError, match="latin.txt: not valid UTF-8 text: .*byte 0xfc in position 1002"):
        read(path)
    assert read(path, errors="replace")[0].text.endswith("Gr\ufffd\ufffde")
    skipped = collections.Counter()
    with pytest.raises(ValueError, match="corpus is empty"):
        read(path, errors="skip", skipped=skipped)
    assert skipped == {path: 1}


# Damaged files


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", jsonl(["one"]) + b'{"text": "tw', "a.jsonl:2: not a line of JSON: Unterminated string"),
        ("a.jsonl", jsonl(["one"]) + b"[" * 200_000, "a.jsonl:2: not a line of JSON"),
        ("a.jsonl", b'{"body": "one"}\n', "a.jsonl:1: not a JSON object with a field 'text'"),
        ("a.jsonl", b'\n["text"]\n', "a.jsonl:2: not a JSON object with a field 'text'"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl:1: field 'text' holds int, not text"),
        ("a.jsonl.gz", jsonl(["one"]), "a.jsonl.gz: the compressed data is corrupt after line 0"),
        ("a.jsonl.gz", b"", "a.jsonl.gz: .* corrupt after line 0: the file ends in the middle"),
        ("a.jsonl.gz", gzip.compress(jsonl(TEXTS))[:-1], "corrupt after line 5: the file ends in the middle"),
        ("a.jsonl.gz", gzip.compress(jsonl(TEXTS)) + b"junk", "corrupt after line 5"),
        ("a.jsonl.gz", gzip.compress(jsonl(TEXTS))[:-8] + b"\0" * 8, "corrupt after line .*incorrect data check"),
        ("a.jsonl.zst", jsonl(["one"]), "a.jsonl.zst: the compressed data is corrupt after line 0"),
        ("a.jsonl.zst", b"", "corrupt after line 0: the file ends in the middle"),
        ("a.jsonl.zst", zstd(jsonl(TEXTS)) + zstd(jsonl(TEXTS))[:-1], "the file ends in the middle"),
        ("a.jsonl.zst", zstd(jsonl(TEXTS)) + zstd(jsonl(TEXTS))[:3], "line 5: the file ends in the middle"),
        ("a.jsonl.zst", zstd(jsonl(TEXTS)) + b"junk!", "corrupt after line 5"),
        ("a.parquet", b"", "a.parquet: not a readable Parquet file"),
        ("a.parquet", b"hello" * 100, "a.parquet: not a readable Parquet file"),
        ("a.parquet", parquet(TEXTS)[:-50], "a.parquet: not a readable Parquet file"),
        ("a.parquet", parquet(TEXTS)[:100] + b"\xff" * 200 + parquet(TEXTS)[300:], "not a readable Parquet file"),
        ("a.parquet", parquet(TEXTS, field="body"), "a.parquet: no column 'text'; it has n, body"),
    ],
)
def test_damage_is_named(tmp_path, name, data, message):
    path = write(tmp_path / name, data)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_parquet_column_of_numbers(tmp_path):
    path = write(tmp_path / "a.parquet", parquet(["one"]))
    with pytest.raises(ValueError, match="column 'n' holds int64, not text"):
        read(path, field="n")


# Nothing to read


def test_missing_paths_are_found_out_before_reading(tmp_path):
    path = write(tmp_path / "a.txt", b"one")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        read_documents([path, str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="model.bin: unknown kind of file, expected one of .txt .md"):
        read_documents([write(tmp_path / "model.bin", b"one")])


def test_empty_corpora_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    for paths in ([], [tmp_path / "folder"]):
        with pytest.raises(ValueError, match="no files to read"):
            read_documents(paths)
    write(tmp_path / "folder" / "a.txt", b" \n")
    write(tmp_path / "folder" / "b.jsonl", b"")
    with pytest.raises(ValueError, match="the corpus is empty: no document with text in 2 files, the first .*a.txt"):
        read(tmp_path / "folder")


def test_arguments_are_checked(tmp_path):
    path = write(tmp_path / "a.txt", b"one")
    with pytest.raises(ValueError, match="errors must be 'raise', 'replace' or 'skip', got 'ignore'"):
        read_documents([path], errors="ignore")
    with pytest.raises(ValueError, match="errors='skip' needs skipped"):
        read_documents([path], errors="skip")
    with pytest.raises(ValueError, match="must be a list of paths"):
        read_documents(path)

"""Files in chunks and lines; their decompression and listing are tested through the corpus readers."""

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.core.files import lines, list_files, open_file, suffix_of


@settings(max_examples=200, deadline=None)
@given(st.binary().map(lambda data: data.replace(b"\n", b"\n\n")), st.lists(st.integers(1, 9)))
def test_lines_do_not_depend_on_chunks(data, sizes):
    chunks, rest = [], data
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    expected = data.split(b"\n")
    assert list(lines([*chunks, rest])) == (expected if expected[-1] else expected[:-1])


def test_the_first_suffix_that_fits_decides():
    assert suffix_of("A.JSONL.GZ", [".jsonl", ".jsonl.gz", ".gz"]) == ".jsonl.gz"
    assert suffix_of("a.bin", [".jsonl"]) == ""


def test_files_and_urls_open_alike(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"text")
    fsspec.filesystem("memory").pipe("/files/a.txt", b"text")
    for url in (tmp_path / "a.txt", str(tmp_path / "a.txt"), "memory://files/a.txt"):
        with open_file(url) as file:
            assert file.read() == b"text"
        ((_, _, name),) = list_files(url, [".txt"])
        assert name == str(url)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "b.txt")


def test_patterns_stand_for_what_they_match(tmp_path, monkeypatch):
    for name in ("run-1/b.txt", "run-1/a.txt", "run-2/c.txt", "run-2/d.bin", "other/e.txt", "[x].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
        fsspec.filesystem("memory").pipe(f"/patterns/{name}", b"text")
    names = lambda url: [name for _, _, name in list_files(url, [".txt"])]
    inside = ["run-1/a.txt", "run-1/b.txt", "run-2/c.txt"]
    assert names(tmp_path / "run-*") == [str(tmp_path / name) for name in inside]
    assert names("memory://patterns/run-?") == [f"memory://patterns/{name}" for name in inside]
    assert names(tmp_path / "[x].txt") == [str(tmp_path / "[x].txt")]
    monkeypatch.chdir(tmp_path)
    assert names("run-*/*.txt") == inside
    with pytest.raises(FileNotFoundError, match="no-\\*: no such file"):
        names("no-*")
    with pytest.raises(ValueError, match="d.bin: unknown kind"):
        names("run-2/*")

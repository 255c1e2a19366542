"""From text files to a token store: what is in it, what it counts, and that a failure leaves nothing."""

import gzip
import json
import os
from pathlib import Path

import pytest

from llama3_jax.data import tokenize as subject
from llama3_jax.data.token_store import TokenStore
from llama3_jax.data.tokenize import tokenize_corpus
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_training import train_tokenizer

STDLIB = sorted(Path(os.__file__).parent.glob("[a-c]*.py"))
NUM_SHARDS = 3


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [path.read_bytes().decode() for path in STDLIB]


@pytest.fixture(scope="module")
def tokenizer(texts) -> Tokenizer:
    return train_tokenizer(texts, vocab_size=1024)


def stored_documents(path: Path) -> list[list[int]]:
    store = TokenStore.open(path)
    documents = []
    for shard, size in enumerate(store.shard_tokens.tolist()):
        offsets, tokens = store.document_offsets(shard).tolist(), store.read(shard, 0, size).tolist()
        documents += [tokens[start:stop] for start, stop in zip(offsets, offsets[1:], strict=False)]
    return documents


def test_store_holds_every_document_and_counts_its_bytes(tmp_path, texts, tokenizer, capsys):
    texts = [*texts, "Übergrößenträger 漢字 😀 <|eot_id|>"]
    (tmp_path / "more.txt").write_bytes(texts[-1].encode())
    paths = [*STDLIB, tmp_path / "more.txt"]
    manifest = tokenize_corpus(paths, tokenizer, tmp_path / "store", num_shards=NUM_SHARDS)
    documents = stored_documents(tmp_path / "store")
    for document in documents:
        assert document[0] == tokenizer.bos_id and document[-1] == tokenizer.eos_id
    assert sorted(tokenizer.decode(document[1:-1]) for document in documents) == sorted(texts)
    assert manifest.num_bytes == sum(path.stat().st_size for path in paths)
    assert manifest.num_tokens == sum(map(len, documents))
    assert (manifest.num_documents, len(manifest.shards)) == (len(texts), NUM_SHARDS)
    assert (manifest.tokenizer_fingerprint, manifest.vocab_size) == (tokenizer.fingerprint, 1024)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1  # not a terminal: no bar
    assert (
        f"tokenized {len(texts)} documents, {manifest.num_bytes:,} bytes, {manifest.num_tokens:,} tokens"
        in captured.err
    )
    assert "MB/s" in captured.err and "skipped" not in captured.err


def test_store_does_not_depend_on_order_format_batches_or_threads(tmp_path, texts, tokenizer, monkeypatch):
    first = tokenize_corpus(STDLIB, tokenizer, tmp_path / "first", num_shards=NUM_SHARDS)
    corpus = tmp_path / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress("\n".join(json.dumps({"body": text}) for text in texts[::-1]).encode()))
    monkeypatch.setattr(subject, "_BATCH_CHARS", 50_000)
    second = tokenize_corpus(
        [corpus], tokenizer, tmp_path / "second", num_shards=NUM_SHARDS, field="body", num_threads=1
    )
    assert first == second
    other_seed = tokenize_corpus(STDLIB, tokenizer, tmp_path / "third", num_shards=NUM_SHARDS, seed=1)
    assert other_seed.num_tokens == first.num_tokens
    assert other_seed.shards != first.shards


@pytest.mark.parametrize(("limit", "value"), [("_BATCH_CHARS", 6), ("_BATCH_DOCUMENTS", 2)])
def test_batches_end_with_the_document_that_fills_them(monkeypatch, limit, value):
    monkeypatch.setattr(subject, limit, value)
    documents = [subject.Document(str(number), "x" * 5) for number in range(5)]
    assert list(map(len, subject._batches(documents))) == [2, 2, 1]
    assert list(subject._batches([])) == []


def test_terminal_shows_a_bar(tmp_path, tokenizer, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    tokenize_corpus(STDLIB[:3], tokenizer, tmp_path / "store", num_shards=1)
    bar = capsys.readouterr().err
    assert "3 documents [" in bar and "tokens/s]" in bar


def test_a_bad_document_stops_the_run_and_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(subject, "_BATCH_DOCUMENTS", 1)  # the first document is written before the second is read
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_bytes(b"good")
    (corpus / "b.txt").write_bytes(b"bad \xff")
    with pytest.raises(ValueError, match="b.txt: not valid UTF-8"):
        tokenize_corpus([corpus], tokenizer, tmp_path / "store", num_shards=1)
    assert list(tmp_path.iterdir()) == [corpus]


def test_skipped_documents_are_told(tmp_path, tokenizer, capsys):
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes(b"bad \xff")
    manifest = tokenize_corpus([tmp_path], tokenizer, tmp_path / "store", num_shards=1, errors="skip")
    assert (manifest.num_documents, manifest.num_bytes) == (1, 4)
    assert "skipped 1 documents that are not UTF-8, in 1 files" in capsys.readouterr().err


def test_empty_corpus_is_refused(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"\n")
    with pytest.raises(ValueError, match="corpus is empty"):
        tokenize_corpus([tmp_path], tokenizer, tmp_path / "store", num_shards=1)
    assert not (tmp_path / "store").exists()

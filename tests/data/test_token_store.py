"""The token store: the same bytes for any input order, and nothing damaged, partial or foreign passes for a store."""

import dataclasses
import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorstore as ts

from llama3_jax.data import token_store
from llama3_jax.data.token_store import Manifest, TokenStore, TokenStoreWriter

VOCAB = 1000


def make_documents(count, seed=0, vocab=VOCAB, longest=300):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, rng.integers(1, longest)) for _ in range(count)]


def write_store(path, documents, *, vocab=VOCAB, num_shards=2, **settings):
    settings = {"tokenizer_fingerprint": "tok", "vocab_size": vocab, "num_shards": num_shards} | settings
    with TokenStoreWriter(path, **settings) as writer:
        for tokens in documents:
            writer.add(tokens, num_bytes=4 * len(tokens))
    return TokenStore.open(str(path))


def read_documents(store):
    found = []
    for shard in range(len(store.manifest.shards)):
        offsets = store.document_offsets(shard)
        found += [tuple(store.read(shard, *pair).tolist()) for pair in zip(offsets[:-1], offsets[1:], strict=True)]
    return found


def tree_bytes(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def flip_byte(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_round_trip_and_totals(tmp_path):
    documents = make_documents(50)
    store = write_store(tmp_path / "store", documents, num_shards=3)
    assert sorted(read_documents(store)) == sorted(tuple(d.tolist()) for d in documents)
    manifest = store.manifest
    assert manifest.num_documents == 50
    assert manifest.num_tokens == store.num_tokens == sum(d.size for d in documents)
    assert manifest.num_bytes == 4 * manifest.num_tokens
    assert sum(store.document_lengths(s).sum() for s in range(3)) == manifest.num_tokens
    for level in ("off", "quick", "full"):
        store.verify(level)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_path_with_unusual_characters(tmp_path):
    store = write_store(tmp_path / "a b%20#?ü", [np.arange(5)], num_shards=1)
    assert read_documents(pickle.loads(pickle.dumps(store))) == [(0, 1, 2, 3, 4)]
    assert [p.name for p in tmp_path.iterdir()] == ["a b%20#?ü"]


def test_same_bytes_for_any_input_order_and_buffer(tmp_path, monkeypatch):
    # Objects of two chunks, so that a shard spans several and documents cross their borders.
    monkeypatch.setattr(token_store, "OBJECT_ELEMENTS", 2 * token_store.CHUNK_ELEMENTS)
    documents = make_documents(150, longest=900) + [np.arange(7)] * 3
    first = write_store(tmp_path / "a", documents)
    order = np.random.default_rng(1).permutation(len(documents))
    second = write_store(tmp_path / "b", [documents[i] for i in order], buffer_bytes=5000)
    assert first.shard_tokens.min() > 2 * token_store.OBJECT_ELEMENTS
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")
    assert sorted(read_documents(second)) == sorted(tuple(d.tolist()) for d in documents)
    second.verify("full")


def test_seed_moves_documents(tmp_path):
    documents = make_documents(50)
    orders = [read_documents(write_store(tmp_path / str(seed), documents, seed=seed)) for seed in (0, -3)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize(("vocab", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_dtype_follows_vocabulary(tmp_path, vocab, dtype):
    tokens = np.array([0, vocab - 1])
    store = write_store(tmp_path / "store", [tokens], vocab=vocab, num_shards=1)
    read = store.read(0, 0, 2)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, tokens)


def test_shards_without_documents(tmp_path):
    store = write_store(tmp_path / "store", [np.arange(5)], num_shards=4)
    assert sorted(store.shard_tokens.tolist()) == [0, 0, 0, 5]
    store.verify("full")
    assert read_documents(store) == [(0, 1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.array([], np.int32), "non-empty"),
        (np.array([1.0]), "integers"),
        (np.zeros((2, 2), np.int32), "non-empty row"),
        (np.array([-1]), "Token ids -1 to -1"),
        (np.array([3, VOCAB]), f"3 to {VOCAB}"),
    ],
)
def test_refuses_bad_documents_and_leaves_nothing(tmp_path, tokens, message):
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path / "store", [np.arange(3), tokens])
    assert list(tmp_path.iterdir()) == []


def test_refuses_empty_store_and_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="No document was added"):
        write_store(tmp_path / "store", [])
    for settings in ({"num_shards": 0}, {"vocab": 0}, {"tokenizer_fingerprint": ""}):
        with pytest.raises(ValueError, match="must"):
            write_store(tmp_path / "store", [np.arange(3)], **settings)
    assert list(tmp_path.iterdir()) == []


def test_never_overwrites(tmp_path):
    write_store(tmp_path / "store", [np.arange(3)])
    before = tree_bytes(tmp_path / "store")
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_store(tmp_path / "store", [np.arange(4)])
    assert tree_bytes(tmp_path / "store") == before


def test_two_writers_of_one_path(tmp_path):
    settings = {"tokenizer_fingerprint": "tok", "vocab_size": VOCAB, "num_shards": 1}
    first, second = (TokenStoreWriter(tmp_path / "store", **settings) for _ in range(2))
    for writer in (first, second):
        writer.add(np.arange(5), num_bytes=1)
    first.close()
    with pytest.raises(FileExistsError):
        second.close()
    TokenStore.open(tmp_path / "store").verify("full")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
    with pytest.raises(ValueError, match="closed"):
        first.add(np.arange(5), num_bytes=1)


def test_killed_writer_leaves_no_store(tmp_path):
    code = (
        "import os, numpy as np; from llama3_jax.data.token_store import TokenStoreWriter\n"
        f"w = TokenStoreWriter({str(tmp_path / 'store')!r}, tokenizer_fingerprint='t', vocab_size=9, num_shards=1,"
        " buffer_bytes=1)\n"
        "w.add(np.arange(5), num_bytes=1); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".store.writing-")
    for path in [tmp_path / "store", *left]:
        with pytest.raises(FileNotFoundError, match="no token store was committed"):
            TokenStore.open(path)
    write_store(tmp_path / "store", [np.arange(5)])


def test_url_store_commits_by_its_manifest(tmp_path):
    url = f"file://{tmp_path}/store"
    writer = TokenStoreWriter(url, tokenizer_fingerprint="tok", vocab_size=VOCAB, num_shards=2)
    writer.add(np.arange(5), num_bytes=1)
    writer._write_shard(0)  # as far as a killed writer may come
    with pytest.raises(FileNotFoundError, match="no token store was committed"):
        TokenStore.open(url)
    writer.abort()
    documents = make_documents(20)
    store = write_store(url, documents)
    store.verify("full")
    assert sorted(read_documents(store)) == sorted(tuple(d.tolist()) for d in documents)
    assert tree_bytes(tmp_path / "store") == tree_bytes(write_store(tmp_path / "b", documents) and tmp_path / "b")
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_store(url, documents)


def test_wrong_tokenizer_or_vocabulary(tmp_path):
    path = tmp_path / "store"
    write_store(path, [np.arange(3)])
    TokenStore.open(path, expect_fingerprint="tok", expect_vocab_size=VOCAB)
    with pytest.raises(ValueError, match=r"manifest.json: tokens were made by tokenizer tok, not other"):
        TokenStore.open(path, expect_fingerprint="other")
    with pytest.raises(ValueError, match=r"manifest.json: the vocabulary has 1000 entries, not 7"):
        TokenStore.open(path, expect_vocab_size=7)


def test_damaged_manifest(tmp_path):
    path = tmp_path / "store"
    store = write_store(path, make_documents(5))
    manifest = path / "manifest.json"
    text = manifest.read_text()
    assert Manifest.from_json(text, "here") == store.manifest
    for cut in (0, 1, len(text) // 2, len(text) - 3):
        manifest.write_text(text[:cut])
        with pytest.raises(ValueError, match=r"store/manifest.json is not a whole token store manifest"):
            TokenStore.open(path)
    fields = json.loads(text)
    for change, message in (
        ({"format_version": 2}, "format version 2"),
        ({"num_tokens": 1}, "num_tokens is not the sum"),
        ({"dtype": "uint32"}, "dtype uint32"),
        ({"surprise": 1}, "not a whole"),
    ):
        manifest.write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=message):
            TokenStore.open(path)
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest.json does not exist"):
        TokenStore.open(path)


@pytest.mark.parametrize("at", [0, 100, -1])
def test_flipped_byte_is_caught_at_read_and_by_full(tmp_path, at):
    path = tmp_path / "store"
    write_store(path, make_documents(40), num_shards=1)
    flip_byte(path / "shard-00000/tokens/c/0", at)
    store = TokenStore.open(path)
    store.verify("quick")
    with pytest.raises(ValueError, match=r"store/shard-00000/tokens cannot be read: DATA_LOSS"):
        store.read(0, 0, 100)
    with pytest.raises(ValueError, match=r"store/shard-00000/tokens cannot be read"):
        TokenStore.open(path).verify("full")


def test_missing_pieces_are_errors_not_zeros(tmp_path):
    path = tmp_path / "store"
    write_store(path, make_documents(40))
    shutil.move(path / "shard-00001/tokens/c", tmp_path / "c")
    store = TokenStore.open(path)
    store.verify("quick")
    with pytest.raises(FileNotFoundError, match=r"store/shard-00001/tokens is missing or incomplete"):
        store.read(1, 0, 10)
    shutil.rmtree(path / "shard-00000")
    with pytest.raises(FileNotFoundError, match=r"store/shard-00000/tokens is missing"):
        TokenStore.open(path).verify("quick")


def test_swapped_contents(tmp_path):
    path = tmp_path / "store"
    write_store(path, make_documents(40), num_shards=1)
    spec = token_store._array_spec(str(path), "shard-00000", "tokens")
    array = ts.open(spec, open=True).result()
    values = array.read().result()
    array[3] = (values[3] + 1) % VOCAB  # a valid chunk with other contents
    store = TokenStore.open(path)
    store.verify("quick")
    with pytest.raises(ValueError, match=r"shard-00000 does not hash to what the manifest says"):
        store.verify("full")
    with pytest.raises(ValueError, match="verify level 'fast' is not one of"):
        store.verify("fast")


def test_wrong_shape(tmp_path):
    store = write_store(tmp_path / "store", make_documents(10), num_shards=1)
    info = dataclasses.replace(store.manifest.shards[0], num_tokens=store.num_tokens + 1)
    manifest = dataclasses.replace(store.manifest, shards=(info,), num_tokens=info.num_tokens)
    with pytest.raises(ValueError, match=re.escape(f"tokens is ({store.num_tokens}, dtype('uint16')); the manifest")):
        TokenStore(store.path, manifest).verify("quick")
    with pytest.raises(ValueError, match="document_offsets does not rise"):
        TokenStore(store.path, manifest).document_lengths(0)


def test_reads_are_bounded_and_joined_in_order(tmp_path):
    store = write_store(tmp_path / "store", make_documents(60))
    whole = [store.read(shard, 0, int(size)) for shard, size in enumerate(store.shard_tokens)]
    shards, starts, stops = np.array([1, 0, 1, 0]), np.array([5, 0, 5, 70]), np.array([9, 3, 5, 400])
    joined = store.start_reads(shards, starts, stops)()
    expected = [whole[s][a:b] for s, a, b in zip(shards, starts, stops, strict=True)]
    np.testing.assert_array_equal(joined, np.concatenate(expected))
    for start, stop in ((-1, 3), (3, 2), (0, store.shard_tokens[0] + 1)):
        with pytest.raises(IndexError, match="outside a shard"):
            store.read(0, start, stop)


def test_pickle_reopens(tmp_path):
    store = write_store(tmp_path / "store", make_documents(10))
    store.read(0, 0, 5)
    data = pickle.dumps(store)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert read_documents(copy) == read_documents(store)
    assert copy._settings == store._settings

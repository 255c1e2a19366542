"""Windows of tokens: those of the tokenizer itself, however long the text and wherever its beginning is cut."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data import windows
from llama3_jax.data.windows import WindowConfig, WindowEncoder
from tests.data.windows_tokenizer import write_tokenizer

TEXT = "The quick brown fox's 12 jumps over the lazy dog, don't they?  It   does!\n\n\tdef f(x): return x**2\n" * 4


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), [TEXT], 400)


def inner_tokens(encoder, text):
    return encoder._tokenizer.encode(text, add_special_tokens=False).ids


def test_a_window_is_what_transformers_makes_of_a_text(path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    encoder = WindowEncoder(path, WindowConfig(length=32))
    texts = [TEXT, "", "short", "日本語 and émigré " * 20, "x" * 500]
    found, documents = encoder.encode(texts)
    assert documents.tolist() == [0, 1, 2, 3, 4]
    for window, text in zip(found, texts, strict=True):
        assert window.dtype == np.int32
        assert window.tolist() == theirs(text, truncation=True, max_length=32)["input_ids"]
    assert found[1].tolist() == [0, 2]


def test_windows_follow_one_another(path):
    encoder = WindowEncoder(path, WindowConfig(length=12, max_windows=3))
    tokens = inner_tokens(encoder, TEXT)
    assert len(tokens) > 40
    found, documents = encoder.encode(["short", TEXT, ""])
    assert documents.tolist() == [0, 1, 1, 1, 2]
    assert [token for window in found[1:4] for token in window[1:-1]] == tokens[:30]
    assert all(len(window) == 12 and window[0] == 0 and window[-1] == 2 for window in found[1:4])
    exact, documents = encoder.encode([encoder._tokenizer.decode(tokens[:20])])
    assert [len(window) for window in exact] == [12, 12] and documents.tolist() == [0, 0]


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("ab'1 \n\té\u00a0\u3000<s>/.,\u2028\x1c"), max_size=400), near=st.integers(1, 30))
def test_only_the_beginning_of_a_text_is_read_and_nothing_changes(path, text, near):
    encoder = WindowEncoder(path, WindowConfig(length=10))
    before = windows.CHARS_PER_TOKEN, windows.NEAR_CHARS
    windows.CHARS_PER_TOKEN, windows.NEAR_CHARS = 2, near
    try:
        found, _ = encoder.encode([text, TEXT])
    finally:
        windows.CHARS_PER_TOKEN, windows.NEAR_CHARS = before
    assert found[0][1:-1].tolist() == inner_tokens(encoder, text)[:8]
    assert found[1][1:-1].tolist() == inner_tokens(encoder, TEXT)[:8]


def test_a_page_of_any_length_costs_its_beginning(path, monkeypatch):
    encoder = WindowEncoder(path, WindowConfig(length=16))
    read = []
    tokenize = encoder._tokenizer

    class Counting:
        def encode_batch_fast(self, texts, **options):
            read.extend(map(len, texts))
            return tokenize.encode_batch_fast(texts, **options)

    monkeypatch.setattr(encoder, "_tokenizer", Counting())
    encoder.encode([TEXT * 1000])
    assert sum(read) <= 14 * windows.CHARS_PER_TOKEN


def test_text_is_text(path):
    encoder = WindowEncoder(path)
    (window,), _ = encoder.encode(["struck <s>out</s> <pad> \ud800"])
    assert not set(window[1:-1].tolist()) & {0, 1, 2}
    assert encoder._tokenizer.decode(window[1:-1].tolist()) == "struck <s>out</s> <pad> \ufffd"


def test_a_tokenizer_of_another_kind_is_refused(path, tmp_path):
    content = json.loads(path.read_text())
    for change, message in (
        ({"normalizer": {"type": "NFC"}}, "its normalizer is"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace; RoBERTa's is ByteLevel"),
        ({"added_tokens": content["added_tokens"][1:], "model": without(content["model"], "<s>")}, "has no token <s>"),
    ):
        (tmp_path / "other.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            WindowEncoder(tmp_path / "other.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="is no tokenizer.json"):
        WindowEncoder(tmp_path / "other.json")
    for values, field in (({"length": 2}, "length"), ({"max_windows": 0}, "max_windows")):
        with pytest.raises(ValueError, match=field):
            WindowConfig(**values)


def without(model, token):
    return model | {"vocab": {name: number for name, number in model["vocab"].items() if name != token}}

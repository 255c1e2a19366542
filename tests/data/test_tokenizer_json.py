"""A tokenizer written as tokenizer.json gives `transformers` and `tokenizers` our ids."""

import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest
import tokenizers

from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_json import write_tokenizer_json


@pytest.fixture(scope="module")
def written(inputs, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("tokenizer"), Tokenizer.load(inputs / "tokenizer.model")
    write_tokenizer_json(tokenizer, folder, 8192)
    return folder, tokenizer, from_file(folder)


def from_file(folder) -> tokenizers.Tokenizer:
    """As we read text: names of special tokens in it are text. (The default of `tokenizers` makes them tokens.)"""
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return theirs


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(text=st.text() | st.text("abc \n\t12'sé漢🎉", max_size=60))
def test_the_same_ids_on_any_text(written, text):
    _, ours, theirs = written
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)
    assert theirs.decode(ours.encode(text), skip_special_tokens=False) == text


def test_our_class_reads_it_back(written):
    folder, ours, _ = written
    assert Tokenizer.load(folder).fingerprint == ours.fingerprint


def test_transformers_opens_the_folder(written):
    transformers = pytest.importorskip("transformers")
    folder, ours, _ = written
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "def read(path):\n    return 12345"
    assert theirs(text).input_ids == ours.encode(text, bos=True)
    chat = "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    assert theirs.encode(chat, add_special_tokens=False) == ours.encode(chat, allow_special=True)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    assert len(theirs) == ours.vocab_size and theirs.decode(ours.encode(text)) == text


@pytest.mark.slow
def test_the_released_vocabulary(tmp_path):
    package = pytest.importorskip("llama_models.llama3.tokenizer")
    theirs, ours = (
        package.Tokenizer.get_instance(),
        Tokenizer.load(package.__file__.replace("tokenizer.py", "tokenizer.model")),
    )
    write_tokenizer_json(ours, tmp_path, 131_072)
    text = pathlib.Path(package.__file__).read_text(encoding="utf-8") + " Größe 漢字 🎉 don't 1234567"
    assert from_file(tmp_path).encode(text, add_special_tokens=False).ids == theirs.encode(text, bos=False, eos=False)

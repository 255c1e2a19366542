"""`llama3 tokenize`: text to a token store, training the tokenizer first when asked to."""

import collections
import os
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.data.text import read_documents
from llama3_jax.data.token_store import TokenStore
from llama3_jax.data.tokenize import tokenize_corpus
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_training import train_tokenizer

SUMMARY = "turn text into a token store, with Meta's, a Hugging Face or your own tokenizer"
MANUAL = """
Encodes the documents of --input (.txt, .md, .py, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, folders, fsspec URLs; comma
separated) and writes a token store to --output (a folder, gs:// or s3://). Documents are shuffled by a hash of their
content, so the store does not depend on the order of the input.

--tokenizer is Meta's tokenizer.model or a Hugging Face tokenizer.json. With --train_vocab_size and no file there yet, a
byte-level BPE of that size (256 special tokens included) is trained on the input and saved there.

A store that is already there is reused when the same tokenizer made it, and never overwritten.
"""
EXAMPLE = """
llama3 tokenize --input=runs/quickstart/text/train.jsonl --train_vocab_size=4096 \\
  --tokenizer=runs/quickstart/tokenizer.model --output=runs/quickstart/tokens/train
"""


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list("input", None, "files, folders or URLs", flag_values=values, required=True)
    flags.DEFINE_string("tokenizer", None, "tokenizer file", flag_values=values, required=True)
    flags.DEFINE_string("output", None, "token store to write", flag_values=values, required=True)
    flags.DEFINE_integer(
        "train_vocab_size", None, "train a tokenizer of this size if there is none", flag_values=values
    )
    flags.DEFINE_integer("num_shards", 8, "shards of the store", flag_values=values)
    flags.DEFINE_string("field", "text", "JSON key or Parquet column of the text", flag_values=values)
    flags.DEFINE_enum(
        "errors", "raise", ["raise", "replace", "skip"], "documents that are not UTF-8", flag_values=values
    )


def run(options: Mapping[str, Any]) -> int:
    paths, output = options["input"], options["output"]
    field, errors = options["field"], options["errors"]
    tokenizer = _tokenizer(options["tokenizer"], options["train_vocab_size"], paths, field, errors)
    if os.path.exists(os.path.join(output, "manifest.json")):
        store = TokenStore.open(output, expect_fingerprint=tokenizer.fingerprint)
        print(f"{output}: reusing the store that is there ({store.num_tokens:,} tokens)")
        return 0
    tokenize_corpus(paths, tokenizer, output, num_shards=options["num_shards"], field=field, errors=errors)
    return 0


def _tokenizer(path: str, train_vocab_size: int | None, paths: list[str], field: str, errors: str) -> Tokenizer:
    if os.path.exists(path) or train_vocab_size is None:
        return Tokenizer.load(path)
    documents = read_documents(paths, field=field, errors=errors, skipped=collections.Counter())
    tokenizer = train_tokenizer((document.text for document in documents), vocab_size=train_vocab_size)
    tokenizer.save(path)
    print(f"{path}: trained a tokenizer of {tokenizer.vocab_size:,} tokens")
    return tokenizer

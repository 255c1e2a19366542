"""Turns a text corpus into a token store: read documents, encode them on all cores, write, show the rate (paper §3.2).

Every document becomes `<|begin_of_text|>` text `<|end_of_text|>`. The manifest also counts the UTF-8 bytes of the text,
which a loss in bits per byte needs.
"""

import collections
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import tqdm

from llama3_jax.data.text import Document, read_documents
from llama3_jax.data.token_store import Manifest, TokenStoreWriter
from llama3_jax.data.tokenizer import Tokenizer

# Large enough to keep all cores busy between two reads, small enough for memory: at most one document above this.
_BATCH_CHARS = 1 << 24
_BATCH_DOCUMENTS = 1 << 14


def tokenize_corpus(
    paths: Sequence[str | os.PathLike],
    tokenizer: Tokenizer,
    output: str | os.PathLike,
    *,
    num_shards: int,
    seed: int = 0,
    field: str = "text",
    errors: str = "raise",
    num_threads: int | None = None,
) -> Manifest:
    """Writes the documents of `paths` to a new token store at `output`; nothing is left there after a failure.

    `field` and `errors` are those of `read_documents`, `num_shards` and `seed` those of `TokenStoreWriter`,
    `num_threads` that of `Tokenizer.encode_batch`; so are the errors raised. Progress goes to stderr: a bar on a
    terminal, and always a closing line.
    """
    started = time.monotonic()
    skipped: collections.Counter[str] = collections.Counter()
    documents = read_documents(paths, field=field, errors=errors, skipped=skipped)
    writer = TokenStoreWriter(
        os.fspath(output),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        num_shards=num_shards,
        seed=seed,
    )
    with writer:
        _write_documents(documents, tokenizer, writer, num_threads)
        manifest = writer.close()
    print(_summary(manifest, skipped, os.fspath(output), time.monotonic() - started), file=sys.stderr)
    return manifest


def _write_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, writer: TokenStoreWriter, num_threads: int | None
) -> None:
    started, num_bytes, num_tokens = time.monotonic(), 0, 0
    with tqdm.tqdm(desc="tokenize", unit=" documents", disable=not sys.stderr.isatty()) as progress:
        for texts in _batches(documents):
            for text, tokens in zip(
                texts, tokenizer.encode_batch(texts, bos=True, eos=True, num_threads=num_threads), strict=True
            ):
                text_bytes = len(text.encode())
                writer.add(tokens, num_bytes=text_bytes)
                num_bytes += text_bytes
                num_tokens += tokens.size
            progress.set_postfix_str(_rates(num_bytes, num_tokens, time.monotonic() - started), refresh=False)
            progress.update(len(texts))


def _batches(documents: Iterable[Document]) -> Iterator[list[str]]:
    """Texts in batches that end with the document that fills them."""
    batch, num_chars = [], 0
    for document in documents:
        batch.append(document.text)
        num_chars += len(document.text)
        if num_chars >= _BATCH_CHARS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def _rates(num_bytes: int, num_tokens: int, seconds: float) -> str:
    seconds = max(seconds, 1e-9)
    return f"{num_bytes / seconds / 1e6:.1f} MB/s, {num_tokens / seconds:,.0f} tokens/s"


def _summary(manifest: Manifest, skipped: collections.Counter[str], output: str, seconds: float) -> str:
    line = (
        f"tokenized {manifest.num_documents:,} documents, {manifest.num_bytes:,} bytes, {manifest.num_tokens:,} tokens "
        f"in {seconds:.1f} s ({_rates(manifest.num_bytes, manifest.num_tokens, seconds)}) to {output}"
    )
    if skipped:
        line += f"; skipped {skipped.total():,} documents that are not UTF-8, in {len(skipped)} files"
    return line

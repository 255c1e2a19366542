"""`llama3 tokenizer train|extend|compare`: vocabularies of one's own."""

import collections
import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tqdm
from absl import flags

from llama3_jax.data.compression import compare_tokenizers, format_comparison
from llama3_jax.data.compression_plot import save_plot
from llama3_jax.data.sources import parse_sources, read_sources
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_json import write_tokenizer_json
from llama3_jax.data.tokenizer_training import (
    Growth,
    bytes_only,
    check_reached,
    check_size,
    first_tokens,
    grow_tokenizer,
)
from llama3_jax.data.word_counts import CountConfig, WordTable, count_corpus

SUMMARY = "train a tokenizer, extend one by tokens for more languages, or compare two"
ACTIONS = ("train", "extend", "compare")
MANUAL = """
--input is a list of sources, each name=path or just a path (.txt, .md, .py, .jsonl, .jsonl.gz, .jsonl.zst, .parquet,
folders, fsspec URLs). Paths with the same name make one source; give each language or corpus its own.

train    learns a byte-level BPE of --vocab_size tokens, 256 special ones included, from the input.
extend   keeps every token of --base with its id and learns more from the input, up to --vocab_size: the paper's
         tokenizer is 100K tokens of tiktoken's cl100k with 28K more for other languages. --base is a tokenizer.model,
         a tokenizer.json or a tiktoken rank file; --base_size takes its first tokens only.
compare  encodes the input with --base (old) and --tokenizer (new) and prints characters and bytes per token of each
         source, the change, what the vocabularies share and do not use, and whether all text comes back.

To give small languages more weight, either --weights=hi=20,th=30 counts each document of a source so many times, or
--balance=0.5 chooses weights such that the share of a source is its size to that power (1 leaves sizes as they are, 0
makes all equal).

train and extend write tokenizer.model, tokenizer.json, tokenizer_config.json and training.json (what was learned from
what) to the folder --output; compare writes compression.json and compression.png there if it is given. The result does
not depend on the order of the input or the number of processes. Of more than --max_words different words those with the
highest counts are used, and training.json says how many were left out.
"""
EXAMPLE = """
llama3 tokenizer train --input=runs/quickstart/text/train.jsonl --vocab_size=4096 --output=runs/tokenizer
llama3 tokenizer extend --base=cl100k_base.tiktoken --base_size=100000 --vocab_size=128256 --balance=0.5 \\
  --input=en=web/en.jsonl.zst,hi=web/hi.jsonl.zst,th=web/th.jsonl.zst --output=runs/multilingual
llama3 tokenizer compare --base=cl100k_base.tiktoken --tokenizer=runs/multilingual --output=runs/comparison \\
  --input=en=held_out/en.jsonl,hi=held_out/hi.jsonl,th=held_out/th.jsonl
"""
_MAX_LENGTH = 131_072  # what tokenizer_config.json says a model takes: the herd's longest context
_NEEDS = {
    "train": ("vocab_size", "output"),
    "extend": ("base", "vocab_size", "output"),
    "compare": ("base", "tokenizer"),
}
_IGNORES = {
    "train": ("base", "base_size", "tokenizer"),
    "extend": ("tokenizer",),
    "compare": ("vocab_size", "weights", "balance"),
}
_MODEL, _REPORT = "tokenizer.model", "training.json"


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list("input", None, "sources: name=path or path", flag_values=values, required=True)
    flags.DEFINE_string("output", None, "folder to write", flag_values=values)
    flags.DEFINE_string("base", None, "tokenizer to extend, or the old one to compare with", flag_values=values)
    flags.DEFINE_integer("base_size", None, "use only so many first tokens of --base", flag_values=values)
    flags.DEFINE_string("tokenizer", None, "the new tokenizer to compare", flag_values=values)
    flags.DEFINE_integer("vocab_size", None, "tokens in all, 256 special ones included", flag_values=values)
    flags.DEFINE_list("weights", [], "name=times: how often documents of a source count", flag_values=values)
    flags.DEFINE_float("balance", None, "exponent of the shares of sources, 0 to 1", flag_values=values)
    flags.DEFINE_integer("max_words", CountConfig.max_words, "different words to learn from", flag_values=values)
    flags.DEFINE_integer("num_workers", None, "processes that count words (all cores)", flag_values=values)
    flags.DEFINE_string("field", "text", "JSON key or Parquet column of the text", flag_values=values)
    flags.DEFINE_enum(
        "errors", "raise", ["raise", "replace", "skip"], "documents that are not UTF-8", flag_values=values
    )


def run(options: Mapping[str, Any]) -> int:
    _check_flags(options)
    return _compare(options) if options["action"] == "compare" else _grow(options)


def _grow(options: Mapping[str, Any]) -> int:
    output = pathlib.Path(options["output"])
    if (output / _MODEL).exists():
        raise ValueError(f"{output / _MODEL} is there already and is not overwritten")
    start = _base(options) if options["action"] == "extend" else bytes_only()
    check_size(start, options["vocab_size"])
    config = CountConfig(
        weights=_weights(options["weights"]),
        balance=options["balance"],
        max_words=options["max_words"],
        num_workers=options["num_workers"],
    )
    with _documents(options) as documents, _progress("count words", "B") as counted:
        table = count_corpus(documents, config, on_progress=counted)
    with _progress("learn", " tokens", options["vocab_size"] - start.vocab_size) as told:
        growth = grow_tokenizer(start, table, vocab_size=options["vocab_size"], on_progress=told)
    check_reached(growth.tokenizer, options["vocab_size"])
    output.mkdir(parents=True, exist_ok=True)
    report = _report(growth, table, start)
    (output / _REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_tokenizer_json(growth.tokenizer, output, _MAX_LENGTH)
    growth.tokenizer.save(output / _MODEL)
    print(_summary(growth, table, output))
    return 0


def _compare(options: Mapping[str, Any]) -> int:
    old, new = _base(options), Tokenizer.load(options["tokenizer"])
    with _documents(options) as documents, _progress("compare", "B") as told:
        comparison = compare_tokenizers(documents, old, new, on_progress=told)
    print(format_comparison(comparison))
    if options["output"] is not None:
        output = pathlib.Path(options["output"])
        output.mkdir(parents=True, exist_ok=True)
        content = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False)
        (output / "compression.json").write_text(content + "\n", encoding="utf-8")
        save_plot(comparison, output / "compression.png")
    return 0


def _check_flags(options: Mapping[str, Any]) -> None:
    """Flags that an action needs must be given, those it does not know must not."""
    action = options["action"]
    for name in _NEEDS[action]:
        if options[name] is None:
            raise ValueError(f"{action} needs --{name}")
    for name in _IGNORES[action]:
        if options[name] not in (None, []):
            raise ValueError(f"{action} does not take --{name}")


def _base(options: Mapping[str, Any]) -> Tokenizer:
    base = Tokenizer.load(options["base"])
    return base if options["base_size"] is None else first_tokens(base, options["base_size"])


def _weights(entries: list[str]) -> dict[str, int]:
    weights = {}
    for entry in entries:
        name, _, times = entry.rpartition("=")
        if not name or not times.isdecimal():
            raise ValueError(f"--weights is a list of name=times with whole times, got {entry!r}")
        weights[name] = int(times)
    return weights


@contextlib.contextmanager
def _documents(options: Mapping[str, Any]) -> Iterator[Iterator[tuple[str, str]]]:
    """The documents of --input; says afterwards what was skipped."""
    skipped: collections.Counter[str] = collections.Counter()
    yield read_sources(
        parse_sources(options["input"]), field=options["field"], errors=options["errors"], skipped=skipped
    )
    if skipped:
        print(f"skipped {skipped.total():,} documents that are not UTF-8, in {len(skipped)} files", file=sys.stderr)


@contextlib.contextmanager
def _progress(what: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    with tqdm.tqdm(desc=what, unit=unit, total=total, unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        yield bar.update


def _report(growth: Growth, table: WordTable, start: Tokenizer) -> dict[str, Any]:
    learned = growth.learned
    return {
        "fingerprint": growth.tokenizer.fingerprint,
        "vocab_size": growth.tokenizer.vocab_size,
        "frozen_tokens": growth.num_frozen,
        "frozen_fingerprint": start.fingerprint,
        "learned_tokens": len(learned.tokens),
        "lowest_count": learned.counts[-1] if learned.counts else None,
        "refused_merges": learned.refused,
        "sources": {name: dataclasses.asdict(size) for name, size in table.sources.items()},
        "different_words": len(table.words),
        "words": table.total_count,
        "left_out_different_words": table.left_out_words,
        "left_out_words": table.left_out_count,
    }


def _summary(growth: Growth, table: WordTable, output: pathlib.Path) -> str:
    num_bytes = sum(size.bytes for size in table.sources.values())
    line = (
        f"{output}: a tokenizer of {growth.tokenizer.vocab_size:,} tokens, {growth.num_frozen:,} kept, "
        f"{len(growth.learned.tokens):,} learned from {num_bytes / 1e6:.1f} MB ({len(table.words):,} different words)"
    )
    if table.left_out_words:
        share = table.left_out_count / table.total_count
        line += f"; {table.left_out_words:,} more words, {share:.2%} of the text, were beyond --max_words"
    return line

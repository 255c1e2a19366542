"""How fast and in how much memory are tokenizers trained and extended here, against `tokenizers`; how fast is encoding?

Text is what is on any machine: the standard library's sources and documentation, the message catalogues of the system
in all languages, and Python sources of installed packages until the size is reached. Every measurement runs in a
process of its own that reads the same file, on the same `--cores` cores:

  train     32,768 learned tokens, ours (words counted, then merges learned) and `tokenizers`; are the merges the same?
  extend    28,000 tokens more than the first 100,000 of Meta's file (of one trained here, if llama-models is missing)
  encode    the documents, as `llama3 tokenize` does, by the extended vocabulary; and by tiktoken alone
            (MB/s by the CPU's clock as well: on a machine that others use, too, the wall's says little)
  tokenize  all of `llama3 tokenize` on one thread: reading, encoding, shuffling, writing the store

Prints one JSON line to stdout and a table to stderr; seconds are wall-clock, the best of `--repeats`.

    python -m benchmarks.curation_tokenizer [--megabytes 40] [--cores 1] [--repeats 1]
"""

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import os
import pathlib
import resource
import struct
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import tokenizers

from llama3_jax.data.sources import read_sources
from llama3_jax.data.stdlib_corpus import standard_library
from llama3_jax.data.tokenize import tokenize_corpus
from llama3_jax.data.tokenizer import SPLIT_REGEX, Tokenizer, byte_level, cut_text
from llama3_jax.data.tokenizer_training import bytes_only, first_tokens, grow_tokenizer
from llama3_jax.data.word_counts import CountConfig, count_corpus

NUM_TRAINED, NUM_FROZEN, NUM_ADDED = 32_768, 100_000, 28_000
CATALOGUES = pathlib.Path("/usr/share/locale")


def messages(path: pathlib.Path) -> list[str]:
    """The translations in a catalogue (GNU .mo, either byte order) that are UTF-8."""
    data = path.read_bytes()
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    if order is None:
        return []
    number, _, table = struct.unpack_from(f"{order}3I", data, 8)
    places = struct.iter_unpack(f"{order}2I", data[table : table + 8 * number])
    found = [data[offset : offset + length] for length, offset in places]
    return [text.decode() for text in found[1:] if text and _is_text(text)]


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def texts() -> Iterator[tuple[str, str]]:
    """(kind, text) in a fixed order; the languages of messages are mixed."""
    for path in sorted(CATALOGUES.glob("*/LC_MESSAGES/*.mo"), key=lambda path: hashlib.sha256(bytes(path)).digest()):
        yield "messages", "\n".join(messages(path))
    for document in standard_library():
        yield "standard_library", document.text
    for path in sorted(pathlib.Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        try:
            yield "packages", path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue


def write_corpus(path: pathlib.Path, num_bytes: int) -> dict[str, int]:
    """Writes the corpus, a quarter of it messages, and returns the bytes of each kind."""
    sizes: dict[str, int] = {}
    with path.open("w", encoding="utf-8") as file:
        for kind, text in texts():
            size = len(text.encode("utf-8", "replace"))
            if not text.strip() or (kind == "messages" and sizes.get(kind, 0) + size > num_bytes // 4):
                continue
            if sum(sizes.values()) + size > num_bytes:
                break
            file.write(json.dumps({"text": text}) + "\n")
            sizes[kind] = sizes.get(kind, 0) + size
    return sizes


def corpus(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    return read_sources({"corpus": [os.fspath(path)]}, errors="replace")


def fingerprint(tokens: list[str]) -> str:
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()


def train_ours(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    began = time.perf_counter()
    table = count_corpus(corpus(path), CountConfig())
    counted = time.perf_counter()
    growth = grow_tokenizer(bytes_only(), table, vocab_size=NUM_TRAINED + 256)
    done = time.perf_counter()
    growth.tokenizer.save(folder / "trained.model")
    return {
        "seconds": done - began,
        "count_seconds": counted - began,
        "learn_seconds": done - counted,
        "different_words": len(table.words),
        "tokens": fingerprint([byte_level(token) for token in growth.tokenizer.learned_tokens]),
    }


def train_theirs(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT_REGEX), "isolated")
    to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_bytes])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=NUM_TRAINED,
        min_frequency=2,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    began = time.perf_counter()
    model.train_from_iterator((piece for _, text in corpus(path) for piece in cut_text(text)), trainer)
    seconds = time.perf_counter() - began
    vocabulary = model.get_vocab()
    return {"seconds": seconds, "tokens": fingerprint(sorted(vocabulary, key=vocabulary.__getitem__))}


def extend(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    package = importlib.util.find_spec("llama_models")
    if package is not None and package.origin is not None:
        start = first_tokens(Tokenizer.load(pathlib.Path(package.origin).parent / "llama3"), NUM_FROZEN)
    else:
        start = Tokenizer.load(folder / "trained.model")
    began = time.perf_counter()
    table = count_corpus(corpus(path), CountConfig())
    counted = time.perf_counter()
    growth = grow_tokenizer(start, table, vocab_size=start.vocab_size + NUM_ADDED)
    done = time.perf_counter()
    growth.tokenizer.save(folder / "extended.model")
    return {
        "seconds": done - began,
        "learn_seconds": done - counted,
        "frozen": start.num_bpe_tokens,
        "learned": len(growth.learned.tokens),
        "refused": growth.learned.refused,
    }


def encode(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Every document on one thread, as `llama3 tokenize` encodes it, and by tiktoken alone."""
    tokenizer = Tokenizer.load(folder / "extended.model")
    documents = [text for _, text in corpus(path)]
    alone = tokenizer._encoding
    began, began_cpu = time.perf_counter(), time.process_time()
    num_tokens = sum(ids.size for ids in tokenizer.encode_batch(documents, bos=True, eos=True, num_threads=1))
    ours, ours_cpu = time.perf_counter(), time.process_time()
    for text in documents:
        alone.encode_to_numpy(text, disallowed_special=())
    done, done_cpu = time.perf_counter(), time.process_time()
    size = sum(len(text.encode()) for text in documents) / 1e6
    return {
        "seconds": ours - began,
        "mb_s": size / (ours - began),
        "mtok_s": num_tokens / (ours - began) / 1e6,
        "mb_s_of_cpu": size / (ours_cpu - began_cpu),
        "tiktoken_mb_s": size / (done - ours),
        "tiktoken_mb_s_of_cpu": size / (done_cpu - ours_cpu),
        "vocab_size": tokenizer.vocab_size,
        "characters_per_token": sum(map(len, documents)) / num_tokens,
    }


def tokenize(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    tokenizer = Tokenizer.load(folder / "extended.model")
    output = tempfile.mkdtemp(dir=folder)
    began, began_cpu = time.perf_counter(), time.process_time()
    manifest = tokenize_corpus(
        [path], tokenizer, os.path.join(output, "store"), num_shards=8, errors="replace", num_threads=1
    )
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    size = manifest.num_bytes / 1e6
    return {"seconds": seconds, "mb_s": size / seconds, "mb_s_of_cpu": size / cpu_seconds}


def measured(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of `work`, CPU seconds with its workers', and the peak memory of this process beyond its start."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = os.times()
    result = work(*arguments)
    cpu_seconds = sum(os.times()[:4]) - sum(began[:4])
    return result | {
        "cpu_seconds": cpu_seconds,
        "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def in_process(repeats: int, work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The fastest of `repeats` runs, each in a new process."""
    found = []
    for _ in range(repeats):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(measured, work, *arguments).result())
    return min(found, key=lambda result: result["seconds"])


def run(folder: pathlib.Path, num_bytes: int, repeats: int) -> dict[str, Any]:
    path = folder / "corpus.jsonl"
    sizes = write_corpus(path, num_bytes)
    jobs = {
        "train": train_ours,
        "train_tokenizers": train_theirs,
        "extend": extend,
        "encode": encode,
        "tokenize": tokenize,
    }
    found = {name: in_process(repeats, work, path, folder) for name, work in jobs.items()}
    same = found["train"].pop("tokens") == found["train_tokenizers"].pop("tokens")
    return {
        "benchmark": "curation_tokenizer",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "bytes": sizes,
        "same_merges": same,
        "times_faster_than_tokenizers": round(found["train_tokenizers"]["seconds"] / found["train"]["seconds"], 2),
        **{
            name: {key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}
            for name, result in found.items()
        },
    }


def print_table(result: dict[str, Any]) -> None:
    lines = [
        f"{sum(result['bytes'].values()) / 1e6:.1f} MB, {result['cores']} cores; same merges: {result['same_merges']}"
    ]
    for name in ("train", "train_tokenizers", "extend", "encode", "tokenize"):
        shown = ", ".join(f"{key} {value}" for key, value in result[name].items())
        lines.append(f"{name:18}{shown}")
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=40, help="size of the corpus")
    parser.add_argument("--cores", type=int, default=1, help="cores to run on")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, of which the fastest counts")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    with tempfile.TemporaryDirectory() as folder:
        result = run(pathlib.Path(folder), args.megabytes * 1_000_000, args.repeats)
    print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

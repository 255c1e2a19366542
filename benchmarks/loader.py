"""How fast can one host read training batches, and how many hosts feed the paper's largest batch?

Builds a store of synthetic documents with heavy-tailed lengths in a temporary folder and measures, from the page cache:

  reads    8,192-token rows at random places, and lone documents: TensorStore as token_store uses it, at several chunk
           sizes, with and without its cache, against numpy.memmap and (rows at record borders only) ArrayRecord
  loader   whole batches of packed rows, with the mixture and both packings, in this process and with worker processes

Prints one JSON line to stdout and a table to stderr. Rates are in millions of tokens per second.

    python -m benchmarks.loader [--tokens 50000000] [--workers 0,2]
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llama3_jax.data import token_store
from llama3_jax.data.loader import BatchSource, DataSegment, make_loader
from llama3_jax.data.token_store import TokenStore, TokenStoreWriter

try:
    import array_record.python.array_record_module as array_record_module
except ImportError:
    array_record_module = None

VOCAB_SIZE = 128256
SEQUENCE_LENGTH = 8192
BATCH_ROWS = 32
READS_AT_ONCE = 64
# The 405B's largest batch at a step of 4 s, which is more than it needed: 6.5 s at 380 TFLOP/s on each of 16,384 GPUs.
NEEDED_TOKENS_PER_SECOND = 16 * 2**20 / 4


def document_lengths(num_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Log-normal with mean near 1,000 tokens and a tail past 100,000, summing to `num_tokens` or a little more."""
    lengths = np.minimum(rng.lognormal(6.0, 1.3, num_tokens // 500 + 1000).astype(np.int64) + 8, 200_000)
    return lengths[: np.searchsorted(np.cumsum(lengths), num_tokens) + 1]


def build_store(path: Path, tokens: np.ndarray, lengths: np.ndarray, num_shards: int) -> float:
    """Writes the store; returns the rate."""
    began = time.perf_counter()
    settings = {"tokenizer_fingerprint": "synthetic", "vocab_size": VOCAB_SIZE, "num_shards": num_shards}
    with TokenStoreWriter(path, **settings) as writer:
        for stop, length in zip(np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
            writer.add(tokens[stop - length : stop], num_bytes=4 * length)
    return lengths.sum() / (time.perf_counter() - began) / 1e6


def rate(read, starts: np.ndarray, lengths: np.ndarray, seconds: float = 1.0) -> float:
    """Mtok/s of `read(starts, stops)` over groups of ranges, for about `seconds`."""
    tokens, began = 0, time.perf_counter()
    for first in range(0, starts.size, READS_AT_ONCE):
        part = slice(first, first + READS_AT_ONCE)
        read(starts[part], starts[part] + lengths[part])
        tokens += int(lengths[part].sum())
        if time.perf_counter() - began > seconds:
            break
    return tokens / (time.perf_counter() - began) / 1e6


def measure_reads(folder: Path, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Mtok/s of each way to read, for rows and for documents at random places in one array."""
    lengths = np.minimum(document_lengths(tokens.size, rng), SEQUENCE_LENGTH)[:50_000]
    patterns = {"rows": np.full(20_000, SEQUENCE_LENGTH), "documents": lengths}
    ranges = {name: (rng.integers(0, tokens.size - SEQUENCE_LENGTH, n.size), n) for name, n in patterns.items()}

    def measure(read) -> dict[str, float]:
        return {name: rate(read, *pair) for name, pair in ranges.items()}

    np.save(folder / "rows.npy", tokens)
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    found = {
        "memmap": measure(lambda a, b: [np.array(mapped[i:j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)])
    }
    for chunk in (1024, 4096, 32768, 1 << 18):
        store = one_document_store(folder / f"chunk_{chunk}", tokens, chunk)
        for name, cache in {"": 0, "+cache": 1 << 30}.items():
            opened = TokenStore.open(store, cache_bytes=cache)
            shard = np.zeros(READS_AT_ONCE, np.int64)
            found[f"tensorstore/{chunk}{name}"] = measure(
                lambda a, b, opened=opened, shard=shard: opened.start_reads(shard[: a.size], a, b)()
            )
    if array_record_module is not None:
        path = str(folder / "rows.array_record")
        found["array_record"] = {"rows": array_record_rate(array_record_module, path, tokens, rng)}
    return found


def one_document_store(path: Path, tokens: np.ndarray, chunk: int) -> str:
    """A store of one document, in chunks of `chunk` tokens."""
    usual, token_store.CHUNK_ELEMENTS = token_store.CHUNK_ELEMENTS, chunk
    try:
        build_store(path, tokens, np.array([tokens.size]), num_shards=1)
    finally:
        token_store.CHUNK_ELEMENTS = usual
    return str(path)


def array_record_rate(module, path: str, tokens: np.ndarray, rng: np.random.Generator) -> float:
    """Rows as whole records, uncompressed, one in a group: the fastest setting for random reads."""
    rows = tokens[: tokens.size // SEQUENCE_LENGTH * SEQUENCE_LENGTH].reshape(-1, SEQUENCE_LENGTH)
    writer = module.ArrayRecordWriter(path, "group_size:1,uncompressed")
    for row in rows:
        writer.write(row.tobytes())
    writer.close()
    reader = module.ArrayRecordReader(path, "readahead_buffer_size:0")
    wanted = rng.integers(0, len(rows), 20_000)

    def read(starts, stops):
        return [np.frombuffer(record, np.uint32) for record in reader.read(starts.tolist())]

    found = rate(lambda a, b: read(a, b), wanted, np.full(wanted.size, SEQUENCE_LENGTH))
    reader.close()
    return found


def measure_loader(stores: dict[str, TokenStore], packing: str, num_workers: int, num_steps: int) -> float:
    """Mtok/s of the loader, after its workers have started."""
    warm = 4 + 20 * num_workers
    plan = DataSegment(
        start_step=0,
        num_steps=warm + num_steps,
        batch_rows=BATCH_ROWS,
        sequence_length=SEQUENCE_LENGTH,
        weights={name: store.num_tokens for name, store in stores.items()},
    )
    source = BatchSource([plan], stores, seed=0, packing=packing)
    with make_loader(source, start_step=0, stop_step=plan.num_steps, num_workers=num_workers) as loader:
        for _ in range(warm):
            next(loader)
        began = time.perf_counter()
        tokens = sum(batch["tokens"].size for batch in loader)
    return tokens / (time.perf_counter() - began) / 1e6


def run(folder: Path, num_tokens: int, workers: list[int], num_steps: int) -> dict:
    rng = np.random.default_rng(0)
    lengths = document_lengths(num_tokens, rng)
    tokens = rng.integers(0, VOCAB_SIZE, int(lengths.sum()), dtype=np.uint32)
    half = lengths.size // 2
    write = build_store(folder / "web", tokens, lengths[:half], num_shards=4)
    build_store(folder / "code", tokens, lengths[half:], num_shards=4)
    stores = {name: TokenStore.open(str(folder / name)) for name in ("web", "code")}
    loader = {
        packing: {str(n): round(measure_loader(stores, packing, n, num_steps), 1) for n in workers}
        for packing in ("concat", "best_fit")
    }
    reads = measure_reads(folder, tokens[: 1 << 24], rng)
    best = max(loader["concat"].values())
    return {
        "benchmark": "loader",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "tokens": int(lengths.sum()),
        "mean_document": round(float(lengths.mean())),
        "sequence_length": SEQUENCE_LENGTH,
        "write_mtok_s": round(write, 1),
        "loader_mtok_s_by_workers": loader,
        "reads_mtok_s": {way: {k: round(v, 1) for k, v in found.items()} for way, found in reads.items()},
        "hosts_for_16M_tokens_in_4s": math.ceil(NEEDED_TOKENS_PER_SECOND / (best * 1e6)),
    }


def print_table(result: dict) -> None:
    lines = [f"{result['tokens']:,} tokens, mean document {result['mean_document']}, {result['cores']} cores (Mtok/s)"]
    lines.append(f"{'write':28}{result['write_mtok_s']:10}")
    for packing, by_workers in result["loader_mtok_s_by_workers"].items():
        lines += [f"{f'loader, {packing}, {n} workers':28}{value:10}" for n, value in by_workers.items()]
    for way, found in result["reads_mtok_s"].items():
        lines.append(f"{way:28}" + "".join(f"{value:10} {name}" for name, value in found.items()))
    lines.append(f"hosts like this one for 16M tokens in 4 s: {result['hosts_for_16M_tokens_in_4s']}")
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000_000, help="size of the synthetic store")
    parser.add_argument("--workers", default="0,2", help="worker counts to measure, separated by commas")
    parser.add_argument("--steps", type=int, default=200, help="batches of 32 rows measured for each setting")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), args.tokens, [int(n) for n in args.workers.split(",")], args.steps)
    print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

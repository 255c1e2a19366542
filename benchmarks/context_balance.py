"""How evenly do the two orders of context parallelism load its ranks, and what does the finer one cost the host?

    python -m benchmarks.context_balance [--lengths 8192 131072 --ranks 2 4 8 16 --block 512]

Imbalance is the highest mask area of a rank over the mean: the factor by which attention takes longer than it would
perfectly balanced. Documents of two kinds are packed as in pre-training (data/packing.py):

  standard_library  the quickstart's training text, tokenized by a vocabulary of 4,096 learned from it
  log_normal        median 400 tokens, mean 1,400, a tail past 100,000
  pareto            shape 1.1 from 200 tokens on: a few documents hold most of the tokens

Prints one JSON line. Per kind, length and ranks: for "chunks" (the paper's order) and "documents" the mean and the
worst over rows, and the mean over batches of four rows, whose costs add up on a rank; the block used, eight a rank or
more; milliseconds a row to find the order. "tiles" is the same mean over rows with another cost: the block x block
tiles that hold anything visible, which is what a kernel that skips whole tiles computes.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from llama3_jax.data.packing import ConcatPacker, pack_rows
from llama3_jax.data.stdlib_corpus import is_held_out, standard_library
from llama3_jax.data.token_store import TokenStore, TokenStoreWriter
from llama3_jax.data.tokenizer_training import train_tokenizer
from llama3_jax.parallel.balance import batch_imbalance, chunk_order, document_order, mask_area, row_imbalance

VOCAB_SIZE = 4096
BATCH_ROWS = 4
MAX_ROWS = 64
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 131072])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--block", type=int, default=512, help="at most; 8 a rank or more")
    args = parser.parse_args()
    cases = []
    for kind, lengths in document_lengths().items():
        for length in args.lengths:
            segment_ids_BS = packed_segment_ids(lengths, length)
            cases += [
                {"kind": kind, "S": length, "rows": len(segment_ids_BS), "ranks": ranks}
                | measure(segment_ids_BS, ranks, args.block)
                for ranks in args.ranks
            ]
    print(json.dumps({"benchmark": "context_balance", "cpus": os.cpu_count(), "cases": cases}))


def document_lengths() -> dict[str, np.ndarray]:
    """Tokens of each document, by kind."""
    rng = np.random.default_rng(SEED)
    return {
        "standard_library": np.fromiter(standard_library_lengths(), np.int64),
        "log_normal": up_to_size(rng.lognormal(np.log(400), 1.6, 100_000)),
        "pareto": up_to_size(200 * (1 + rng.pareto(1.1, 100_000))),
    }


def up_to_size(lengths: np.ndarray) -> np.ndarray:
    """Whole tokens, 1 to a million a document, enough of them for MAX_ROWS rows of the longest sequence."""
    whole = np.clip(lengths.astype(np.int64), 1, 1_000_000)
    return whole[: np.searchsorted(np.cumsum(whole), MAX_ROWS * 131072) + 1]


def standard_library_lengths() -> Iterator[int]:
    texts = [document.text for document in standard_library() if not is_held_out(document.id)]
    tokenizer = train_tokenizer(texts, vocab_size=VOCAB_SIZE)
    for text in texts:
        yield len(tokenizer.encode(text, bos=True, eos=True))


def packed_segment_ids(lengths: np.ndarray, sequence_length: int) -> np.ndarray:
    """Segment ids of rows as the loader packs them for pre-training: documents shuffled, joined and cut, [rows, S]."""
    num_rows = min(MAX_ROWS, int(lengths.sum()) // sequence_length // BATCH_ROWS * BATCH_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "store")
        with TokenStoreWriter(path, tokenizer_fingerprint="none", vocab_size=VOCAB_SIZE, num_shards=1) as writer:
            for length in lengths.tolist():
                writer.add(np.zeros(length, np.uint32), num_bytes=4 * length)
        packer = ConcatPacker(TokenStore.open(path), seed=SEED)
        return pack_rows(packer, 0, num_rows, sequence_length)["segment_ids"]


def measure(segment_ids_BS: np.ndarray, ranks: int, block: int) -> dict:
    """Imbalance of both orders on the same rows, and the time that the second takes to find."""
    length = segment_ids_BS.shape[1]
    block = min(block, length // (8 * ranks))
    began = time.perf_counter()
    by_document_BS = document_order(segment_ids_BS, ranks, block)
    milliseconds = 1e3 * (time.perf_counter() - began) / len(segment_ids_BS)
    tiles_BI = visited_tiles(segment_ids_BS, block)
    orders = {"chunks": chunk_order(length, ranks), "documents": by_document_BS}
    found: dict[str, dict[str, float] | float] = {"block": block}
    for name, order in orders.items():
        order_BS = np.broadcast_to(order, segment_ids_BS.shape)
        rows_B = row_imbalance(segment_ids_BS, order_BS, ranks)
        starts = range(0, len(segment_ids_BS), BATCH_ROWS)
        batches = [
            batch_imbalance(segment_ids_BS[i : i + BATCH_ROWS], order_BS[i : i + BATCH_ROWS], ranks) for i in starts
        ]
        tiles_BR = np.take_along_axis(tiles_BI, order_BS[:, ::block] // block, axis=1)
        tiles_BR = tiles_BR.reshape(len(tiles_BI), ranks, -1).sum(axis=2)
        found[name] = {
            "mean": round(float(rows_B.mean()), 3),
            "worst": round(float(rows_B.max()), 3),
            f"batch_of_{BATCH_ROWS}": round(float(np.mean(batches)), 3),
            "tiles": round(float((tiles_BR.max(axis=1) / tiles_BR.mean(axis=1)).mean()), 3),
        }
    return found | {"ms_per_row": round(milliseconds, 2)}


def visited_tiles(segment_ids_BS: np.ndarray, block: int) -> np.ndarray:
    """For each block of queries, the key blocks from its first query's document's first token to itself, [B, I]."""
    place_S = np.arange(segment_ids_BS.shape[1])
    begin_BI = (place_S - mask_area(segment_ids_BS) + 1)[:, ::block]
    return place_S[::block] // block - begin_BI // block + 1


if __name__ == "__main__":
    main()

"""Candidate pairs looked at exactly: their n-grams are brought together, and pairs that share too few are dismissed.

Bands let pairs meet by chance; the similarity of the two sets of n-grams is not a chance (Broder 1997). Every edge asks
both of its documents for their n-grams, which travel to the part of the edge.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation import hashing, shuffle
from llama3_jax.curation.deduplicate import DedupConfig
from llama3_jax.curation.documents import numbers
from llama3_jax.curation.minhash import Shingles, exact_jaccard, shingles
from llama3_jax.curation.steps import Counts, Results, Task
from llama3_jax.curation.text_batch import TextBatch

SCHEMA = pa.schema({"first": pa.int64(), "second": pa.int64(), "side": pa.int8(), "ngrams": pa.large_list(pa.uint64())})


def write_ngrams(tasks: Sequence[Task]) -> list[Counts]:
    """Map: the n-grams of a partition's documents that have edges, once for each edge, to the part of the edge."""
    (task,) = tasks
    dedup, num_parts = task.settings
    edges, starts = task.inputs["edges"], numbers(task.inputs["documents"])
    first, second = _all_edges(edges).T
    tables, begin = [SCHEMA.empty_table()], int(starts[task.index])
    for table in task.inputs["documents"].batches(task.index, "documents", ("text",)):
        end = begin + table.num_rows
        tables += [
            _asked(table["text"], dedup, begin, end, first, second, side) for side, _ in enumerate((first, second))
        ]
        begin = end
    found = pa.concat_tables(tables)
    pairs = shuffle.arrays(found, ("first", "second"))
    part = shuffle.by_key(hashing.salted(pairs[0].astype(np.uint64), pairs[1].astype(np.uint64)), num_parts)
    task.write_parts("ngrams", shuffle.cut(found, part, num_parts))
    return [{"sets": found.num_rows}]


def _all_edges(edges: Results) -> np.ndarray:
    """Every edge once, int64 [E, 2]: documents that share several bands are joined in several parts."""
    found = [shuffle.arrays(edges.rows(index, "edges"), ("first", "second")) for index in range(edges.num_tasks)]
    return np.unique(np.concatenate([np.stack(pair, axis=1) for pair in found]), axis=0)


def _asked(
    texts: pa.ChunkedArray, dedup: DedupConfig, begin: int, end: int, first: np.ndarray, second: np.ndarray, side: int
) -> pa.Table:
    """The n-grams that edges ask of the documents [begin, end) on one side of them."""
    ends = (first, second)[side]
    mine = np.flatnonzero((ends >= begin) & (ends < end))
    rows, place = np.unique(ends[mine] - begin, return_inverse=True)
    found = shingles(TextBatch.from_arrow(texts.take(pa.array(rows))), dedup.minhash)
    lists = pa.LargeListArray.from_arrays(pa.array(found.splits), pa.array(found.hash))
    columns = [pa.array(first[mine]), pa.array(second[mine]), pa.array(np.full(len(mine), side, np.int8))]
    return pa.table([*columns, lists.take(pa.array(place))], schema=SCHEMA)


def write_verified(tasks: Sequence[Task]) -> list[Counts]:
    """Reduce: the edges whose documents are as similar as `DedupConfig.verify` asks."""
    (task,) = tasks
    table = (
        task.inputs["ngrams"]
        .part(task.index, "ngrams")
        .sort_by([("first", "ascending"), ("second", "ascending"), ("side", "ascending")])
    )
    first, second = (array[::2] for array in shuffle.arrays(table, ("first", "second")))
    lists = table["ngrams"].combine_chunks()
    sets = Shingles(lists.flatten().to_numpy(), np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]))
    pairs = np.arange(2 * len(first)).reshape(-1, 2)
    similar = exact_jaccard(sets, pairs) >= task.settings if len(first) else np.zeros(0, bool)
    task.write("edges", pa.table({"first": first[similar], "second": second[similar]}))
    return [{"candidates": len(first), "edges": int(similar.sum())}]

"""The corpus's own distribution of tokens, and how far each document is from it (Llama 3, 3.1: token-distribution KL).

Tokens are counted in the documents that deduplication leaves, whole numbers that add up in any order; then every
document is scored against the sums. Texts are read once for both: their tokens, buckets of words, lie beside them.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.deduplicate import alive
from llama3_jax.curation.features import Annotate, Annotated, Batch, column
from llama3_jax.curation.heuristics.token_divergence import (
    DivergenceConfig,
    TokenDivergence,
    add_counts,
    count_tokens,
    word_buckets,
)
from llama3_jax.curation.steps import DOCUMENTS, Counts, Results, Task


def tokens(task: Task) -> Annotate:
    """The feature: the tokens of every document, whatever becomes of it."""
    num_tokens: int = task.settings.settings
    kind = np.uint16 if num_tokens <= 1 << 16 else np.uint32

    def annotate(batch: Batch) -> Annotated:
        buckets = word_buckets(batch.texts.folded_hashes, num_tokens).astype(kind)
        splits = pa.array(batch.texts.words.splits)
        return Annotated(columns={"tokens": pa.LargeListArray.from_arrays(splits, pa.array(buckets))})

    return annotate


def _read_tokens(task: Task) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(tokens, splits int64) of some documents after others of the task's partition."""
    for table in task.inputs["tokens"].batches(task.index, "tokens"):
        lists = table["tokens"].combine_chunks()
        sizes = lists.value_lengths().to_numpy()
        yield lists.flatten().to_numpy(), np.concatenate([[0], np.cumsum(sizes)])


def _languages(task: Task) -> np.ndarray:
    """str [D]: of the documents of the task's partition."""
    return column(task.inputs["language"].rows(task.index, "scores", ("language",)), "language").astype(str)


def write_token_counts(tasks: Sequence[Task]) -> list[Counts]:
    """Map: counts of the tokens of a partition's documents that are left, by language."""
    (task,) = tasks
    config: DivergenceConfig = task.settings
    left, languages = alive(task.inputs, task.index), _languages(task)
    total: dict[str, np.ndarray] = {}
    first = 0
    for found, splits in _read_tokens(task):
        rows, sizes = np.flatnonzero(left[first : first + len(splits) - 1]), np.diff(splits)
        mine = found[np.repeat(left[first : first + len(sizes)], sizes)]
        of_mine = np.concatenate([[0], np.cumsum(sizes[rows])])
        total = add_counts(total, count_tokens(mine, of_mine, languages[first + rows].tolist(), config.num_tokens))
        first += len(sizes)
    _write(task, total)
    return [{DOCUMENTS: int(left.sum())}]


def write_token_totals(tasks: Sequence[Task]) -> list[Counts]:
    """Reduce: the sum of all partitions."""
    (task,) = tasks
    total: dict[str, np.ndarray] = {}
    for index in range(task.inputs["counts"].num_tasks):
        total = add_counts(total, _read(task.inputs["counts"], index))
    _write(task, total)
    return [{"languages": len(total)}]


def _write(task: Task, counts: dict[str, np.ndarray]) -> None:
    columns = {"language": list(counts), "counts": [values.tobytes() for values in counts.values()]}
    task.write("tokens", pa.table(columns, schema=pa.schema({"language": pa.string(), "counts": pa.large_binary()})))


def _read(results: Results, index: int) -> dict[str, np.ndarray]:
    rows = results.rows(index, "tokens").to_pylist()
    return {row["language"]: np.frombuffer(row["counts"], np.int64) for row in rows}


def write_divergence(tasks: Sequence[Task]) -> list[Counts]:
    """Map: the scores `kl` and `kl_excess` of a partition's documents."""
    (task,) = tasks
    corpus = _corpus(task.inputs["totals"], task.settings)
    languages, pieces, first = _languages(task), [], 0
    for found, splits in _read_tokens(task):
        mine = languages[first : first + len(splits) - 1]
        pieces.append(corpus.scores(found, splits, mine.tolist()))
        first += len(mine)
    scores = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    ids = task.inputs["documents"].rows(task.index, "documents", ("id",))["id"]
    task.write("scores", pa.table({"id": ids, **scores}))
    return [{DOCUMENTS: first}]


@functools.lru_cache(maxsize=1)  # every task of a process asks for the same
def _corpus(totals: Results, config: DivergenceConfig) -> TokenDivergence:
    return TokenDivergence(_read(totals, 0), config)

"""The corpus's own distribution of tokens, and how far each document is from it (Llama 3, 3.1: token-distribution KL).

Words are counted in the documents that deduplication leaves, whole numbers that add up in any order; a second pass over
the texts scores every document against the sums.
"""

from collections.abc import Sequence

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
from llama3_jax.curation.lexicon import word_hashes
from llama3_jax.curation.steps import DOCUMENTS, Counts, Results, Task
from llama3_jax.curation.text_batch import TextBatch


def write_token_counts(tasks: Sequence[Task]) -> list[Counts]:
    """Map: counts of the words of a partition's documents that are left, by language."""
    (task,) = tasks
    config: DivergenceConfig = task.settings
    left = alive(task.inputs, task.index)
    languages = column(task.inputs["language"].rows(task.index, "scores", ("language",)), "language").astype(str)
    total: dict[str, np.ndarray] = {}
    first = num_bytes = 0
    for table in task.inputs["documents"].batches(task.index, "documents", ("text",)):
        rows = np.flatnonzero(left[first : first + table.num_rows])
        texts = TextBatch.from_arrow(table["text"].take(pa.array(rows)))
        of_batch = languages[first + rows].tolist()
        buckets = word_buckets(word_hashes(texts), config.num_tokens)
        total = add_counts(total, count_tokens(buckets, texts.words.splits, of_batch, config.num_tokens))
        first += table.num_rows
        num_bytes += table["text"].nbytes
    _write(task, total)
    return [{DOCUMENTS: int(left.sum()), "bytes": num_bytes}]


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


def divergence(task: Task) -> Annotate:
    """The feature: `kl` and `kl_excess`."""
    config: DivergenceConfig = task.settings.settings
    corpus = TokenDivergence(_read(task.inputs["totals"], 0), config)

    def annotate(batch: Batch) -> Annotated:
        languages = batch.scores["language"].tolist()
        buckets = word_buckets(word_hashes(batch.texts), config.num_tokens)
        return Annotated(corpus.scores(buckets, batch.texts.words.splits, languages))

    return annotate

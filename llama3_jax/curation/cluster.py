"""Steps on a cluster: the same jobs, handed out by Daft, on this machine or on Ray.

Jobs are rows of a frame with one partition each, and the work is a function over them; what they read and write lies in
the shared work folder, so nothing but the counts comes back. Daft's own settings say where it runs: by default here,
with DAFT_RUNNER=ray (and RAY_ADDRESS) on a Ray cluster.
"""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from llama3_jax.curation.runner import Job, do_job
from llama3_jax.curation.steps import Counts


def daft_engine(jobs: Sequence[Job]) -> Iterator[Sequence[Counts]]:
    """An executor. Raises ImportError if Daft is not installed, and what the work raises."""
    try:
        import daft  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ImportError(f"the engine needs another package ({error}): pip install 'llama3_jax[cluster]'") from error

    def do(column: Any) -> list[bytes]:
        return [_do(job) for job in column.to_pylist()]

    by_row: Any = daft.udf(return_dtype=daft.DataType.binary(), batch_size=1)(do)

    frame = daft.from_pydict({"job": [pickle.dumps(job) for job in jobs]})
    if daft.get_or_infer_runner_type() == "ray":  # here batches of one are handed out anyway
        frame = frame.into_partitions(len(jobs))
    for row in frame.select(by_row(frame["job"]).alias("counts")).iter_rows():
        found = pickle.loads(row["counts"])
        if isinstance(found, Exception):
            raise found
        yield found


def _do(job: bytes) -> bytes:
    """The counts of a job, or the error that stopped it: Daft would hide it behind one of its own."""
    try:
        return pickle.dumps(do_job(pickle.loads(job)))
    except Exception as error:
        return pickle.dumps(error)

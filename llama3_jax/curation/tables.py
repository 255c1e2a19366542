"""Parquet files that appear whole: rows in row groups, on a disk or on object storage."""

import os
import pathlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from llama3_jax.core.paths import is_url, path_of

# Levels above 1 cost more time than they save in space; statistics and dictionaries do not pay for text and hashes.
_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "write_statistics": False,
}
_PARTIAL = ".partial"


def write_whole(path: str, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file that is there whole or not at all, though its writer be killed."""
    target = path_of(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_url(path):  # an object appears when it is closed
        with target.open("wb") as file:
            write(file)
        return
    temporary = f"{path}.{uuid.uuid4().hex}{_PARTIAL}"
    try:
        with open(temporary, "wb") as file:
            write(file)
        _appear(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def _appear(temporary: str, path: str) -> None:
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        if not os.path.exists(path):  # another process has written the same, and cleaned up
            raise


def remove_partial(folder: str) -> None:
    """Removes what killed writers have left in a folder, in which nothing is missing any more."""
    if not is_url(folder):
        for left in pathlib.Path(folder).rglob(f"*{_PARTIAL}"):
            left.unlink(missing_ok=True)


def write_table(path: str, groups: Sequence[pa.Table], metadata: Mapping[str, str]) -> None:
    """Writes tables of one schema, each as a row group, also an empty one."""
    schema = groups[0].schema.with_metadata(dict(metadata) or None)

    def write(file: IO[bytes]) -> None:
        with pq.ParquetWriter(file, schema, **_FORMAT) as writer:
            for group in groups:
                table = group.cast(schema).combine_chunks()
                writer.write_table(table, row_group_size=max(1, table.num_rows))

    write_whole(path, write)


def read_rows(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a file."""
    with path_of(path).open("rb") as file:
        return pq.ParquetFile(file).read(columns=None if columns is None else list(columns), use_threads=False)


def column_names(path: str) -> list[str]:
    """The columns of a file, of which nothing else is read."""
    with path_of(path).open("rb") as file:
        return pq.ParquetFile(file).schema_arrow.names


def read_row_group(path: str, group: int) -> pa.Table:
    """One row group of a file."""
    with path_of(path).open("rb") as file:
        return pq.ParquetFile(file).read_row_group(group, use_threads=False)


def iterate_row_groups(path: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a file, one after the other."""
    with path_of(path).open("rb") as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)

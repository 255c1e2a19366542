"""Who a document is: a hash of its content, so that nothing depends on where it stood or who read it (Llama 3, 3.1)."""

import datetime
import hashlib
from collections.abc import Sequence

import numpy as np

ID_BYTES = 16


def document_id(url: str, date: datetime.datetime | None, content: bytes) -> bytes:
    """128 bits of a document's URL, date (UTC, to the second) and raw bytes; `b""` and None where there is none.

    Raises ValueError for a date without a time zone, whose meaning would depend on the machine.
    """
    if date is not None and date.tzinfo is None:
        raise ValueError(f"{url}: the date {date} has no time zone")
    seconds = b"" if date is None else str(int(date.timestamp())).encode()
    parts = (url.encode("utf-8", "surrogatepass"), seconds, content)
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def part_of(identity: bytes, num_parts: int) -> int:
    """Which of `num_parts` equal ranges of ids this one lies in: parts in order are documents in the order of ids."""
    return int.from_bytes(identity[:8], "big") * num_parts >> 64


def parts_of(identities: Sequence[bytes], num_parts: int) -> np.ndarray:
    """`part_of` for many ids, int64 [N]. `num_parts` is below 2^32."""
    joined = np.frombuffer(b"".join(identities), ">u8")
    start = joined.reshape(-1, ID_BYTES // 8)[:, 0].astype(np.uint64)
    half, count = np.uint64(32), np.uint64(num_parts)
    low = (start & np.uint64(0xFFFFFFFF)) * count >> half
    return ((start >> half) * count + low >> half).astype(np.int64)

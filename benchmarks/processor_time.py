"""What the benchmarks of curation count: seconds of this process's processor time, which other work disturbs least."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def best_of(rounds: int, work: Callable[[], T]) -> tuple[float, T]:
    """(seconds of the best of some rounds, what the last of them returned)."""
    seconds, result = [], None
    for _ in range(rounds):
        began = time.process_time()
        result = work()
        seconds.append(time.process_time() - began)
    return min(seconds), result  # pyright: ignore[reportReturnType]

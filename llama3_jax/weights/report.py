"""What a conversion would do, for people to read before they start it."""

from llama3_jax.weights.convert import Conversion
from llama3_jax.weights.format import GIGABYTE

DEFAULT_DISK_MB_PER_S = 500.0
MEGABYTE = 10**6


def describe(conversion: Conversion, to: str, disk_mb_per_s: float | None) -> str:
    """Every file with its bytes, the total, peak memory, and time by the speed of the disk.

    Raises ValueError for a speed that is not positive.
    """
    if disk_mb_per_s is not None and disk_mb_per_s <= 0:
        raise ValueError(f"disk_mb_per_s must be positive, got {disk_mb_per_s}")
    plan = conversion.plan
    width = max(len(file.name) for file in plan.files)
    lines = [f"{plan.origin} to {to}, {conversion.source_bytes:,} bytes to read; weights to write, as {plan.dtype}:"]
    lines += [f"  {file.name:<{width}}  {file.num_bytes:>19,} bytes" for file in plan.files]
    lines += [f"  {'total':<{width}}  {conversion.num_bytes:>19,} bytes"]
    lines.append(
        f"peak memory: {conversion.peak_bytes / GIGABYTE:.1f} GB beyond the program itself (its largest array has "
        f"{conversion.largest_bytes / GIGABYTE:.2f} GB)"
    )
    rate, known = disk_mb_per_s or DEFAULT_DISK_MB_PER_S, "measured" if disk_mb_per_s else "assumed; --disk_mb_per_s"
    seconds = (conversion.source_bytes + conversion.num_bytes) / (rate * MEGABYTE)
    lines.append(f"time: {_duration(seconds)} to read and write at {rate:g} MB/s ({known})")
    return "\n".join([*lines, *(f"note: {note}" for note in conversion.notes)])


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"

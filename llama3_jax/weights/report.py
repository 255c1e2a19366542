"""What a conversion would do, for people to read before they start it."""

from llama3_jax.weights.convert import Conversion
from llama3_jax.weights.format import GIGABYTE

DEFAULT_DISK_MB_PER_S = 500.0
CORE_MB_PER_S = 150.0  # measured on a shared core, all in the page cache: 150 to 300, the slowest to our own format
MEGABYTE = 10**6


def describe(conversion: Conversion, to: str, disk_mb_per_s: float | None) -> str:
    """Every file with its bytes, the total, peak memory, and time.

    Raises ValueError for a speed that is not positive.
    """
    if disk_mb_per_s is not None and disk_mb_per_s <= 0:
        raise ValueError(f"disk_mb_per_s must be positive, got {disk_mb_per_s}")
    plan = conversion.plan
    width = max(len(file.name) for file in plan.files)
    lines = [f"{plan.origin} to {to}, {conversion.source_bytes:,} bytes to read; weights to write, as {plan.dtypes}:"]
    lines += [f"  {file.name:<{width}}  {file.num_bytes:>19,} bytes" for file in plan.files]
    lines += [f"  {'total':<{width}}  {conversion.num_bytes:>19,} bytes"]
    lines.append(
        f"peak memory: {conversion.peak_bytes / GIGABYTE:.1f} GB beyond the program itself (its largest array has "
        f"{conversion.largest_bytes / GIGABYTE:.2f} GB)"
    )
    lines.append(_time(conversion, disk_mb_per_s))
    return "\n".join([*lines, *(f"note: {note}" for note in conversion.notes)])


def _time(conversion: Conversion, disk_mb_per_s: float | None) -> str:
    rate, known = disk_mb_per_s or DEFAULT_DISK_MB_PER_S, "measured" if disk_mb_per_s else "assumed; --disk_mb_per_s"
    disk = (conversion.source_bytes + conversion.num_bytes) / (rate * MEGABYTE)
    core = conversion.num_bytes / (CORE_MB_PER_S * MEGABYTE)
    return (
        f"time: {_duration(max(disk, core))}, the longer of {_duration(disk)} to read and write at {rate:g} MB/s "
        f"({known}) and {_duration(core)} for a core to put it in order at {CORE_MB_PER_S:g} MB/s"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"

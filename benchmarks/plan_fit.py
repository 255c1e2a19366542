"""Fits the planner's rates on half of the published rows and predicts the others, and the paper's Table 4.

    python -m benchmarks.plan_fit

The split was fixed before the first fit: within each kind of hardware, in the order of benchmarks/published_rows.py,
the first, third, fifth ... row is fitted, the others and Table 4 are held out. What is fitted: the share of the peak
that products reach, one number a kind of hardware; the share that attention reaches on TPUs; the share of data-parallel
and of tensor communication that is hidden. Attention on GPUs is not fitted, as no row with long sequences is in bf16:
FlashAttention-3 (Shah et al. 2024) reaches 0.5 to 0.65 of an H100's peak with causal masks.
"""

import collections
import json
import math

from benchmarks.ahead_of_time import config_of
from benchmarks.published_rows import MODELS, ROWS, TABLE_4, PaperRow, Row
from llama3_jax.plan.project import ATTENTION_GPU, RATES, Projection, Rates, project
from llama3_jax.plan.topology import HARDWARE
from llama3_jax.plan.work import Share
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import layout_of

START = {"attention tpu": 0.4, "hidden": 0.8, "hidden_tensor": 0.3}
LIMITS = {"hidden": (0.0, 0.98), "hidden_tensor": (0.0, 0.9)}
OTHERS = (0.2, 0.95)  # limits of shares of the peak
ROUNDS, STEPS = 12, 24


def split() -> tuple[list[Row], list[Row]]:
    """Rows to fit and rows held out."""
    seen, halves = collections.Counter(), ([], [])
    for row in ROWS:
        halves[seen[row.hardware.name] % 2].append(row)
        seen[row.hardware.name] += 1
    return halves


def share_of(row: Row | PaperRow) -> Share:
    """One device's share of a published run."""
    config = config_of(row.run, MODELS)
    return Share(config, layout_of(config, config.mesh.resolve(row.devices)), Plan(config.recipe).segments[0])


def constants_in_use() -> dict[str, float]:
    """The planner's rates as the constants of a fit, and the share of torchtitan's H100s, which it has no use for."""
    tpu = RATES["v5p"]
    shared = {"attention tpu": tpu.attention, "hidden": tpu.hidden, "hidden_tensor": tpu.hidden_tensor}
    return {kind: rates.matmul for kind, rates in RATES.items()} | {"h100_500w": 0.41} | shared


def rates_from(constants: dict[str, float], kind: str) -> Rates:
    """The rates of a kind of hardware out of all fitted constants."""
    attention = ATTENTION_GPU if kind.startswith("h") else constants["attention tpu"]
    return Rates(constants[kind], attention, constants["hidden"], constants["hidden_tensor"])


def speed(projection: Projection, devices: int) -> float:
    """Tokens per second and device."""
    return projection.tokens / projection.step / devices


def error(row: Row, constants: dict[str, float], share: Share) -> float:
    """Predicted over published speed, less 1."""
    projection = project(share, row.hardware, rates_from(constants, row.hardware.name))
    return speed(projection, row.devices) / row.speed - 1


def fit(rows: list[Row]) -> dict[str, float]:
    """The constants with the least squared logarithmic error, found one at a time on ever finer grids."""
    shares = [share_of(row) for row in rows]
    constants = {row.hardware.name: 0.6 for row in rows} | START

    def loss(changed: dict[str, float]) -> float:
        errors = [error(row, changed, share) for row, share in zip(rows, shares, strict=True)]
        return sum(math.log1p(value) ** 2 for value in errors)

    for turn in range(ROUNDS):
        for name in constants:
            low, high = LIMITS.get(name, OTHERS)
            width = (high - low) * 0.5 ** (turn / 2)
            grid = [constants[name] + width * (step / STEPS - 0.5) for step in range(STEPS + 1)]
            tried = [constants | {name: min(max(value, low), high)} for value in (*grid, constants[name])]
            constants = min(tried, key=loss)
    return constants


def main() -> None:
    """Prints the fit, every row's error and Table 4 as predicted."""
    fitted, held_out = split()
    constants = fit(fitted)
    print(json.dumps({"benchmark": "plan_fit", "constants": {k: round(v, 3) for k, v in constants.items()}}))
    for name, rows in (("fitted", fitted), ("held out", held_out)):
        errors = [error(row, constants, share_of(row)) for row in rows]
        for row, value in zip(rows, errors, strict=True):
            print(
                f"{name:9} {row.hardware.name:10} {row.devices:6,} {row.run.model:14} {row.speed:9,.1f} {value:+7.1%}"
            )
        mean = sum(map(abs, errors)) / len(errors)
        print(f"{name}: mean absolute error {mean:.1%}, largest {max(map(abs, errors)):.1%}")
    for row in TABLE_4:
        projection = project(share_of(row), HARDWARE["h100"], rates_from(constants, "h100"))
        causal, full = projection.mfu(), projection.mfu(causal=False)
        print(
            f"Table 4   h100 {row.devices:6,} S {row.run.length:,}: MFU {causal:.1%} causal, {full:.1%} full, "
            f"paper {row.mfu:.0%}: {causal / row.mfu - 1:+.1%}"
        )
        print({part: round(value, 3) for part, value in projection.seconds.items()})


if __name__ == "__main__":
    main()

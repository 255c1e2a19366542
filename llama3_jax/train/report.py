"""The loss curve of a run as a picture."""

import math

from matplotlib.figure import Figure

from llama3_jax.core.paths import path_of
from llama3_jax.core.telemetry import read_metrics


def plot_losses(workdir: str, path: str) -> None:
    """Draws training and held-out loss over tokens, the learning rate below, stages marked, into a PNG at `path`."""
    lines = read_metrics(workdir)
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise ValueError(f"{workdir} has no finished step to draw")
    tokens = [line["tokens_seen"] for line in steps]
    seen = {line["step"]: line["tokens_seen"] for line in steps}
    held_out = [(seen[line["step"]], line["held_out_loss"]) for line in lines if "held_out_loss" in line]
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=120)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    losses = [line["nll"] for line in steps]
    top.plot(tokens, losses, color="0.75", linewidth=0.8, label="training, each step")
    top.plot(tokens, _smooth(losses), color="tab:blue", label="training, smoothed")
    if held_out:
        top.plot(*zip(*held_out, strict=True), "o", color="tab:orange", label="held out, end of stage")
    for number, first in enumerate(_stage_starts(steps)):
        top.axvline(first["tokens_seen"], color="0.5", linewidth=0.6, linestyle=":")
        top.annotate(
            f"{first['stage']}\n{first['sequence_length']} tokens",
            (first["tokens_seen"], 0.97 - 0.1 * (number % 2)),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            fontsize=7,
            color="0.3",
        )
    top.set_ylabel("loss (nats per token)")
    top.legend(loc="center right", frameon=False)
    bottom.plot(tokens, [line["learning_rate"] for line in steps], color="tab:green", linewidth=1)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("tokens seen")
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    with path_of(path).open("wb") as file:
        figure.savefig(file, format="png")


def _smooth(values: list[float], share: float = 0.02) -> list[float]:
    """Exponential moving average over `share` of the run, free of start-up bias; NaN steps are skipped."""
    decay = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    smoothed = []
    for value in values:
        if math.isfinite(value):
            total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        smoothed.append(total / weight if weight else float("nan"))
    return smoothed


def _stage_starts(steps):
    return [
        line
        for before, line in zip([{}, *steps[:-1]], steps, strict=True)
        if (before.get("stage"), before.get("sequence_length")) != (line["stage"], line["sequence_length"])
    ]

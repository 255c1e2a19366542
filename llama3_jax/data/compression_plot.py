"""A picture of how two tokenizers compress each source."""

import os

import numpy as np
from matplotlib.figure import Figure

from llama3_jax.data.compression import Comparison


def save_plot(comparison: Comparison, path: str | os.PathLike) -> None:
    """Writes a PNG: characters a token of every source, old beside new, best gain on top."""
    rows = sorted(comparison.sources, key=lambda row: (row.change_percent, row.source))
    places = np.arange(len(rows))
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(rows)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for offset, side, color in ((0.2, "old", "tab:gray"), (-0.2, "new", "tab:blue")):
        rates = [row.characters / getattr(row, side).tokens for row in rows]
        axes.barh(places + offset, rates, 0.4, color=color, label=side)
    for place, row in zip(places, rows, strict=True):
        axes.text(row.characters / row.new.tokens, place - 0.2, f" {row.change_percent:+.0f}%", va="center", fontsize=8)
    axes.set_yticks(places, [row.source.replace("$", r"\$") for row in rows])
    axes.set_xlabel("characters per token")
    axes.margins(x=0.12)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    figure.savefig(path, format="png")

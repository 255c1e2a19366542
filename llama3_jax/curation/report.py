"""What a person sees of a curation run: one HTML page without scripts or anything from elsewhere."""

import dataclasses
import html
from collections.abc import Mapping, Sequence

import numpy as np

BINS = 48


@dataclasses.dataclass(frozen=True)
class Stage:
    """A row of the funnel: documents that came in, and how many went for which reason."""

    name: str
    documents: int
    dropped: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How a number is distributed over documents, those kept within all, and the limits that a rule sets."""

    name: str
    values: np.ndarray  # float [N]; NaN is left out
    kept: np.ndarray  # bool [N]
    limits: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Casualty:
    """A document that was dropped, for people to look at."""

    reason: str
    id: str
    url: str
    excerpt: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All that the page shows."""

    title: str
    funnel: Sequence[Stage]
    shares: Mapping[str, Mapping[str, tuple[int, int]]]  # table -> key -> (documents, kept)
    histograms: Sequence[Histogram]
    casualties: Sequence[Casualty]
    settings: str  # as they were, in JSON
    notes: Sequence[str] = ()


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #222 }
h2 { margin-top: 2.2rem } table { border-collapse: collapse; width: 100% }
td, th { padding: .15rem .6rem; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } tr + tr td { border-top: 1px solid #eee }
.bar { background: #4a7ebb; height: .7rem; display: block } .bar.lost { background: #d9a441 }
.tables, .plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.2rem }
figure { margin: 0 } figcaption { font-size: 13px } svg { width: 100%; height: auto; background: #fafafa }
details { margin: .3rem 0 } blockquote { margin: .3rem 0 .8rem; color: #444; white-space: pre-wrap; font-size: 13px }
code { font-size: 13px } pre { overflow: auto; background: #fafafa; padding: .6rem; font-size: 12px }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd } svg, pre { background: #242424 }
tr + tr td { border-color: #333 } blockquote { color: #bbb } }
"""


def render(report: Report) -> str:
    """The page."""
    parts = [
        f"<h1>{html.escape(report.title)}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in report.notes),
        "<h2>Funnel</h2>",
        _funnel(report.funnel),
        "<h2>Of what, and how much of it was kept</h2>",
        f'<div class="tables">{"".join(_shares(name, rows) for name, rows in report.shares.items())}</div>',
        "<h2>Distributions</h2>",
        "<p>All documents that had a text in grey, those kept in blue; lines are the limits of rules.</p>",
        f'<div class="plots">{"".join(_histogram(each) for each in report.histograms)}</div>',
        "<h2>Casualties, some of each reason</h2>",
        _casualties(report.casualties),
        f"<h2>Settings</h2><details><summary>as they were</summary><pre>{html.escape(report.settings)}</pre></details>",
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(report.title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _funnel(stages: Sequence[Stage]) -> str:
    most = max([stage.documents for stage in stages], default=0) or 1
    rows = []
    for stage in stages:
        lost = sum(stage.dropped.values())
        stays = stage.documents - lost
        why = ", ".join(f"{html.escape(key)} {n:,}" for key, n in _largest(stage.dropped, 6))
        rows.append(
            f"<tr><td>{html.escape(stage.name)}</td><td class=n>{stage.documents:,}</td>"
            f'<td style="width:30%"><span class="bar" style="width:{100 * stays / most:.2f}%"></span>'
            f'<span class="bar lost" style="width:{100 * lost / most:.2f}%"></span></td>'
            f"<td class=n>{_percent(stays, stage.documents)}</td><td>{why}</td></tr>"
        )
    return (
        "<table><tr><th>step<th class=n>documents<th>kept, dropped<th class=n>kept<th>dropped for</tr>"
        f"{''.join(rows)}</table>"
    )


def _shares(name: str, rows: Mapping[str, tuple[int, int]]) -> str:
    largest = sorted(rows.items(), key=lambda row: (-row[1][0], row[0]))[:20]
    body = "".join(
        f"<tr><td>{html.escape(key) or '&mdash;'}</td><td class=n>{documents:,}</td>"
        f"<td class=n>{_percent(kept, documents)}</td></tr>"
        for key, (documents, kept) in largest
    )
    more = f"<tr><td colspan=3>and {len(rows) - 20:,} more</td></tr>" if len(rows) > 20 else ""
    return f"<table><tr><th>{html.escape(name)}<th class=n>documents<th class=n>kept</tr>{body}{more}</table>"


def _histogram(histogram: Histogram) -> str:
    finite = np.isfinite(histogram.values)
    values, kept = histogram.values[finite].astype(float), histogram.kept[finite]
    if not len(values):
        return f"<figure><figcaption>{html.escape(histogram.name)}: none</figcaption></figure>"
    low, high = np.quantile(values, [0.005, 0.995])
    high = high if high > low else low + 1
    edges = np.linspace(low, high, BINS + 1)
    counts, ours = (np.histogram(np.clip(each, low, high), edges)[0] for each in (values, values[kept]))
    top = max(counts.max(), 1)
    bars = "".join(
        f'<rect x="{4 * i}" y="{60 - 58 * n / top:.2f}" width="3.6" height="{58 * n / top:.2f}" fill="{color}"/>'
        for color, series in (("#bbb", counts), ("#4a7ebb", ours))
        for i, n in enumerate(series)
        if n
    )
    lines = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="60" stroke="#c0392b" stroke-dasharray="2"/>'
        for x in ((limit - low) / (high - low) * 4 * BINS for limit in histogram.limits)
        if 0 <= x <= 4 * BINS
    )
    caption = f"{html.escape(histogram.name)}, {_number(low)} to {_number(high)}"
    return (
        f'<figure><svg viewBox="0 0 {4 * BINS} 60" role="img" aria-label="{caption}">{bars}{lines}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _casualties(casualties: Sequence[Casualty]) -> str:
    by_reason: dict[str, list[Casualty]] = {}
    for casualty in casualties:
        by_reason.setdefault(casualty.reason, []).append(casualty)
    return "".join(
        f"<details><summary>{html.escape(reason)}</summary>"
        + "".join(
            f"<div><code>{each.id}</code> {html.escape(each.url)}</div>"
            f"<blockquote>{html.escape(each.excerpt)}</blockquote>"
            for each in some
        )
        + "</details>"
        for reason, some in sorted(by_reason.items())
    )


def _largest(counts: Mapping[str, int], count: int) -> list[tuple[str, int]]:
    return sorted(((key, n) for key, n in counts.items() if n), key=lambda item: (-item[1], item[0]))[:count]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "&mdash;"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

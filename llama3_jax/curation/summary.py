"""A finished run as a report: what went where, and examples. Reads results; computes nothing anew."""

import collections
import json
import math
import urllib.parse
from collections.abc import Iterator, Mapping

import numpy as np

from llama3_jax.core.config import to_dict
from llama3_jax.curation.curation_config import CurationConfig
from llama3_jax.curation.documents import numbers
from llama3_jax.curation.features import column, read_scores
from llama3_jax.curation.judging import NEAR, SHORT, URL, Judging
from llama3_jax.curation.report import Casualty, Histogram, Report, Stage
from llama3_jax.curation.rules_config import early_rules, late_rules
from llama3_jax.curation.steps import DOCUMENTS, DROPPED, Results, Step

SAMPLED = 1_000_000  # documents whose scores are drawn: those with the smallest ids, which are hashes
EXAMPLES, EXCERPT = 4, 400  # casualties of each reason, characters of each


def summarise(steps: Mapping[str, Step], config: CurationConfig) -> Report:
    """The report of a run whose steps are done. Raises ValueError where they are not."""
    results = {name: step.results(config.workdir) for name, step in steps.items()}
    settings: Judging = steps["verdicts"].settings
    verdicts, documents = results["selected" if "selected" in results else "verdicts"], results["documents"]
    kept = results["publish"].total()
    total = int(numbers(documents)[-1])
    notes = (
        f"{total:,} documents became {kept[DOCUMENTS]:,} with {kept['bytes'] / 1e6:,.1f} MB of text.",
        f"Look at one with llama3 curate explain ID --config=... Result {steps['publish'].fingerprint[:12]}.",
    )
    return Report(
        title="Curation",
        notes=notes,
        funnel=list(_funnel(results)),
        shares=_shares(documents, verdicts),
        histograms=list(_histograms(results, verdicts, settings)),
        casualties=[*_lost_pages(results), *_casualties(documents, verdicts)],
        settings=json.dumps(to_dict(config), indent=1, sort_keys=True),
    )


def _funnel(results: Mapping[str, Results]) -> Iterator[Stage]:
    for name in results:
        if name.startswith("read-"):
            yield _stage(f"read {name.removeprefix('read-')}", results[name].total())
    said = {"documents": "identical pages", "early": "early rules"}
    for name, title in said.items():
        yield _stage(title, results[name].total())
    left = _left(results["early"].total())
    reasons = _reasons(results["verdicts"].total())
    for title, names in {"URLs": (URL,), "near-duplicates": (NEAR,)}.items():
        dropped = {name: results[step].total()[DROPPED] for step, name in _DEDUP.items() if name in names}
        yield Stage(title, left, dropped)
        left -= sum(dropped.values())
    rules = {name: count for name, count in reasons.items() if name != SHORT}
    yield Stage("rules", left, rules)
    left -= sum(rules.values())
    yield Stage("lines cut", left, {SHORT: reasons.get(SHORT, 0)})
    left -= reasons.get(SHORT, 0)
    chosen = _reasons(results["selected"].total()) if "selected" in results else {}
    if chosen:
        yield Stage("selection", left, chosen)
    yield Stage("kept", left - sum(chosen.values()), {})


_DEDUP = {"url-losers": URL, "near-duplicates": NEAR}


def _stage(name: str, total: Mapping[str, int]) -> Stage:
    return Stage(name, total[DOCUMENTS], _reasons(total))


def _left(total: Mapping[str, int]) -> int:
    return total[DOCUMENTS] - total[DROPPED]


def _reasons(total: Mapping[str, int]) -> dict[str, int]:
    return {key.removeprefix("reason."): count for key, count in total.items() if key.startswith("reason.")}


def _shares(documents: Results, verdicts: Results) -> dict[str, dict[str, tuple[int, int]]]:
    """Documents, and how many of them were kept, by language, category and host; of many documents a part's hosts."""
    of_hosts = "host" if numbers(documents)[-1] <= SAMPLED else f"host, of the first {SAMPLED:,} documents or so"
    seen: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    kept: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for index in range(documents.num_tasks):
        table = verdicts.rows(index, "verdicts")
        stays = column(table, "reason") == ""
        columns = {"language": column(table, "language"), "category": column(table, "category")}
        if numbers(documents)[index] < SAMPLED:
            urls = documents.rows(index, "documents", ("url",))["url"].to_pylist()
            columns[of_hosts] = np.array([_host(url) for url in urls], dtype=object)
        for name, values in columns.items():
            seen[name].update(values.tolist())
            kept[name].update(values[stays].tolist())
    return {name: {key: (count, kept[name][key]) for key, count in seen[name].items()} for name in seen}


def _host(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _histograms(results: Mapping[str, Results], verdicts: Results, settings: Judging) -> Iterator[Histogram]:
    inputs = {role: results[role] for role in settings.features}
    pieces, keeps, count = [], [], 0
    for index in range(results["documents"].num_tasks):
        pieces.append(read_scores(inputs, settings.features, index))
        keeps.append(column(verdicts.rows(index, "verdicts", ("reason",)), "reason") == "")
        count += len(keeps[-1])
        if count >= SAMPLED:
            break
    kept = np.concatenate(keeps)[:SAMPLED]
    rules = {rule.score: rule for rule in (*late_rules(settings.rules, "en", "web"), *early_rules(settings.rules))}
    for name in pieces[0]:
        if pieces[0][name].dtype.kind not in "fiub":
            continue
        values = np.concatenate([piece[name] for piece in pieces])[:SAMPLED]
        limits = (rules[name].low, rules[name].high) if name in rules else ()
        yield Histogram(name, values, kept, tuple(limit for limit in limits if math.isfinite(limit)))


def _lost_pages(results: Mapping[str, Results]) -> Iterator[Casualty]:
    """Pages that never became documents, the first of each reason by place."""
    first: dict[str, list[tuple[str, str]]] = {}
    for name, of_source in results.items():
        for index in range(of_source.num_tasks if name.startswith("read-") else 0):
            for row in of_source.rows(index, "casualties").to_pylist():
                some = [*first.get(row["reason"], []), (row["place"], row["source"])]
                first[row["reason"]] = sorted(some)[:EXAMPLES]
    for reason in sorted(first):
        for place, source in first[reason]:
            yield Casualty(reason, "", place, f"from {source}")


def _casualties(documents: Results, verdicts: Results) -> Iterator[Casualty]:
    """The first documents of each reason in the order of ids, which is none of their content's."""
    found: collections.Counter[str] = collections.Counter()
    for index in range(documents.num_tasks):
        why = column(verdicts.rows(index, "verdicts", ("reason",)), "reason")
        chosen: dict[int, str] = {}
        for row, reason in enumerate(why.tolist()):
            if reason and found[reason] < EXAMPLES:
                found[reason] += 1
                chosen[row] = reason
        first = 0
        for table in documents.batches(index, "documents", ("id", "url", "text")) if chosen else ():
            for row in (row for row in chosen if first <= row < first + table.num_rows):
                document = table.slice(row - first, 1).to_pylist()[0]
                yield Casualty(chosen[row], document["id"].hex(), document["url"], document["text"][:EXCERPT])
            first += table.num_rows

"""The verdict on every document of a partition, from the scores and spans that lie beside it (Llama 3, 3.1)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation import shuffle
from llama3_jax.curation.annotations import Spans
from llama3_jax.curation.deduplicate import lost
from llama3_jax.curation.documents import numbers
from llama3_jax.curation.features import column, read_scores, read_spans
from llama3_jax.curation.heuristics.rules import failed, reasons
from llama3_jax.curation.rules_config import RulesConfig, early_rules, late_reasons, page_kinds
from llama3_jax.curation.steps import DOCUMENTS, DROPPED, Counts, Results, Task

CATEGORIES = ("general", "math_reasoning", "code", "multilingual")
URL, NEAR, SHORT = "url", "near-duplicate", "nothing left"


@dataclasses.dataclass(frozen=True)
class Judging:
    """What verdicts depend on: the rules, and which steps are features and which spans of theirs are cut or masked."""

    rules: RulesConfig
    features: tuple[str, ...]
    cut: tuple[tuple[str, str], ...] = ()  # (feature, spans) of lines to drop
    mask: tuple[tuple[str, str], ...] = ()  # (feature, spans) to replace by the name of the spans


def write_early(tasks: Sequence[Task]) -> list[Counts]:
    """What drops documents before they are compared with each other."""
    (task,) = tasks
    rules = early_rules(task.settings.rules)
    scores = read_scores(task.inputs, task.settings.features, task.index)
    count = task.inputs["documents"].counts(task.index)["kept"]
    why = reasons(failed(scores, rules), rules) if rules else np.zeros(count, "U1")
    task.write("reasons", pa.table({"reason": pa.array(why.astype(str))}))
    return [count_reasons(why)]


def count_reasons(why: np.ndarray) -> dict[str, int]:
    """Counts of a step that drops documents for reasons, "" for those that stay."""
    names, counts = np.unique(why, return_counts=True)
    by_reason = {f"reason.{name}": int(n) for name, n in zip(names.tolist(), counts, strict=True) if name}
    return {DOCUMENTS: len(why), DROPPED: sum(by_reason.values()), **by_reason}


def write_verdicts(tasks: Sequence[Task]) -> list[Counts]:
    """The verdict of every rule on every document: the first reason to drop it, in the order in which steps come."""
    (task,) = tasks
    settings: Judging = task.settings
    scores = read_scores(task.inputs, settings.features, task.index)
    documents = task.inputs["documents"]
    table = documents.rows(task.index, "documents", ("id", "text_bytes"))
    languages = scores["language"].astype(str)
    kinds = page_kinds(scores, settings.rules)
    left = scores["chars"] - cut_chars(dropped_lines(task.inputs, task.index, settings), table.num_rows)
    early = column(task.inputs["early"].rows(task.index, "reasons"), "reason").astype(str)
    url, near = (lost(task.inputs, role, task.index) for role in ("url_losers", "document_losers"))
    why = first_reasons(
        early,
        np.where(url, URL, ""),
        np.where(near, NEAR, ""),
        late_reasons(scores, languages, kinds, settings.rules),
        np.where(left < settings.rules.min_chars, SHORT, ""),
    )
    category = categories(languages, kinds, scores["reasoning_page"] >= settings.rules.reasoning_page)
    verdicts = {"id": table["id"], "reason": why, "language": languages, "category": category, "chars": left}
    task.write("verdicts", pa.table(verdicts))
    seen = (early == "") & ~url & ~near
    return [{**count_reasons(why[seen]), "bytes": int(table["text_bytes"].to_numpy()[seen].sum())}]


def first_reasons(*whys: np.ndarray) -> np.ndarray:
    """The first that is not empty, document by document."""
    found = np.zeros(len(whys[0]), "U64")
    for why in whys:
        found = np.where(found == "", why, found)
    return found


def dropped_lines(inputs: Mapping[str, Results], index: int, settings: Judging) -> Spans:
    """The lines of a partition's documents that are cut, each once, in order."""
    pieces = [read_spans(inputs[role], index, name) for role, name in settings.cut]
    if "lines" in inputs:
        pieces.append(_repeated_lines(inputs, index, settings.rules))
    if not pieces:
        none = np.zeros(0, np.int64)
        return Spans(none, none, none, np.zeros(0))
    row, start, end = (np.concatenate([piece[i] for piece in pieces]) for i in range(3))
    order = np.lexsort((-end, start, row))
    row, start, end = row[order], start[order], end[order]
    is_first = np.ones(len(row), bool)  # of the spans of one line: the longest, which has its line break
    is_first[1:] = (row[1:] != row[:-1]) | (start[1:] != start[:-1])
    return Spans(row[is_first], start[is_first], end[is_first], np.ones(is_first.sum()))


def _repeated_lines(inputs: Mapping[str, Results], index: int, rules: RulesConfig) -> Spans:
    names = ("number", "start", "end", "count", "rank")
    number, start, end, count, rank = shuffle.arrays(inputs["lines"].part(index, "spans"), names)
    drop = rules.lines.drops(count, rank)
    row = number[drop] - numbers(inputs["documents"])[index]
    return Spans(row, start[drop], end[drop], count[drop].astype(np.float64))


def cut_chars(spans: Spans, count: int) -> np.ndarray:
    """Characters that go from each document, int64 [D]."""
    return np.bincount(spans.row, (spans.end - spans.start).astype(np.float64), minlength=count).astype(np.int64)


def categories(languages: np.ndarray, kinds: np.ndarray, reasoning: np.ndarray) -> np.ndarray:
    """What a document counts as in the mix (Llama 3, 3.1.2), str [D]: one of CATEGORIES."""
    is_math = (kinds == "math") | (reasoning & (kinds != "code"))
    english = np.where(kinds == "code", "code", np.where(is_math, "math_reasoning", "general"))
    return np.where((languages != "en") & (kinds != "code"), "multilingual", english)

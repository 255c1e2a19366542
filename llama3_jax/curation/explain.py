"""Why a document lived or died: everything that was found out about it, in words."""

import bisect
import os
import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.cuts import of_row
from llama3_jax.curation.documents import numbers
from llama3_jax.curation.features import column, read_scores, read_spans
from llama3_jax.curation.identity import ID_BYTES, part_of
from llama3_jax.curation.judging import Judging, dropped_lines
from llama3_jax.curation.rules_config import early_rules, late_rules, page_kinds
from llama3_jax.curation.steps import Results, Step

EXCERPT = 300


def explain(steps: Mapping[str, Step], workdir: str, name: str) -> str:
    """All that is known of the document with this id, hexadecimal digits, of which the first ones may be enough.

    Raises ValueError for what is no id, for one that is no document's or several documents', and where the steps are
    not done.
    """
    first, last = _ids(name)
    verdicts, final = steps["verdicts"], steps["selected" if "selected" in steps else "verdicts"]
    for step in (*verdicts.after.values(), final):
        _check_done(step.results(workdir), workdir)
    inputs = {role: step.results(workdir) for role, step in verdicts.after.items()}
    index, row = _place(inputs["documents"], first, last)
    settings: Judging = verdicts.settings
    scores = {key: values[row : row + 1] for key, values in read_scores(inputs, settings.features, index).items()}
    verdict = final.results(workdir).rows(index, "verdicts").slice(row, 1).to_pylist()[0]
    lines = [
        *_who(inputs["documents"], index, row),
        f"verdict   {'kept' if not verdict['reason'] else 'dropped: ' + verdict['reason']}",
        f"category  {verdict['category']}, language {verdict['language']}",
        *_rivals(inputs, index, row),
        *_cut(inputs, index, row, settings),
        *_masked(inputs, index, row, settings),
        *_rules(scores, settings, verdict["language"]),
    ]
    return "\n".join(lines)


def _check_done(results: Results, workdir: str) -> None:
    if len(results.done()) < results.num_tasks:
        raise ValueError(f"{workdir} holds no whole run with these settings: start llama3 curate with them first")


def _ids(name: str) -> tuple[bytes, bytes]:
    """The smallest and the largest id that begin so."""
    digits = 2 * ID_BYTES
    if not re.fullmatch(f"[0-9a-f]{{1,{digits}}}", name.lower()):
        raise ValueError(f"{name!r} is not an id, {digits} hexadecimal digits or the first of them")
    return bytes.fromhex(name.ljust(digits, "0")), bytes.fromhex(name.ljust(digits, "f"))


def _place(documents: Results, first: bytes, last: bytes) -> tuple[int, int]:
    """(partition, row) of the one document whose id is in this range."""
    found: list[tuple[int, int, bytes]] = []
    for index in range(part_of(first, documents.num_tasks), part_of(last, documents.num_tasks) + 1):
        ids = documents.rows(index, "documents", ("id",))["id"].to_pylist()
        rows = range(bisect.bisect_left(ids, first), bisect.bisect_right(ids, last))
        found += [(index, row, ids[row]) for row in rows]
    if not found:
        beginning = "has the id" if first == last else "has an id that begins with"
        raise ValueError(f"no document {beginning} {os.path.commonprefix([first.hex(), last.hex()])}")
    if len(found) > 1:
        some = ", ".join(identity.hex() for _, _, identity in found[:3]) + (", ..." if len(found) > 3 else "")
        raise ValueError(f"{len(found)} documents have ids that begin so: {some}")
    return found[0][:2]


def _who(documents: Results, index: int, row: int) -> Iterator[str]:
    document = _document(documents, index, row)
    yield f"document  {document['id'].hex()}"
    for name in ("url", "date", "source", "title"):
        if document[name]:
            yield f"{name:9} {document[name]}"
    text = " ".join(document["text"][: 2 * EXCERPT].split())
    yield f"text      {text[:EXCERPT]}{'…' if len(text) > EXCERPT else ''}"


def _document(documents: Results, index: int, row: int) -> dict:
    for table in documents.batches(index, "documents"):
        if row < table.num_rows:
            return table.slice(row, 1).to_pylist()[0]
        row -= table.num_rows
    raise AssertionError("the row is one of the partition's")


def _rivals(inputs: Mapping[str, Results], index: int, row: int) -> Iterator[str]:
    """The documents that stayed instead of it."""
    starts = numbers(inputs["documents"])
    said = {"url_losers": "same URL as", "document_losers": "near-duplicate of"}
    for role, relation in said.items():
        table: pa.Table = inputs[role].part(index, "losers")
        mine = column(table, "survivor")[column(table, "number") == starts[index] + row]
        for number in mine.tolist():
            partition = int(np.searchsorted(starts, number, side="right")) - 1
            rival = _document(inputs["documents"], partition, number - int(starts[partition]))
            yield f"rival     {relation} {rival['id'].hex()} {rival['url']}"


def _cut(inputs: Mapping[str, Results], index: int, row: int, settings: Judging) -> Iterator[str]:
    spans = of_row(dropped_lines(inputs, index, settings), row)
    if len(spans):
        text = _document(inputs["documents"], index, row)["text"]
        yield f"cut       {len(spans)} lines, the first {text[spans[0, 0] : spans[0, 1]][:EXCERPT]!r}"


def _masked(inputs: Mapping[str, Results], index: int, row: int, settings: Judging) -> Iterator[str]:
    counts = {name: len(of_row(read_spans(inputs[role], index, name), row)) for role, name in settings.mask}
    if any(counts.values()):
        yield f"masked    {', '.join(f'{name} {count}' for name, count in counts.items() if count)}"


def _rules(scores: Scores, settings: Judging, language: str) -> Iterator[str]:
    kind = page_kinds(scores, settings.rules)[0]
    rules = {rule.score: rule for rule in (*late_rules(settings.rules, language, kind), *early_rules(settings.rules))}
    yield f"rules     those for {kind} pages in {language!r}"
    for name, values in scores.items():
        value = values[0]
        if isinstance(value, str):
            yield f"  {name:26} {value or '-':>12}"
            continue
        rule = rules.get(name)
        limits = f"  allowed {rule.low:g} to {rule.high:g}" if rule else ""
        failed = "  FAILED" if rule and (value < rule.low or value > rule.high) else ""
        yield f"  {name:26} {value:12.6g}{limits}{failed}"

"""Reads a judge's verdict, strictly: the last line says it in the form that was asked for, or there is none.

What cannot be read is counted with a reason and never guessed: a wrong label costs more than a missing one.
"""

import re
from typing import NamedTuple

from llama3_jax.curation.labelling.rubrics import POINTS, SCALES, YES_NO

_LINES = {
    POINTS: re.compile(r"Score: (-?\d+(?:[.,]\d+)?)(/5)?\.?"),
    YES_NO: re.compile(r"Verdict: (yes|no)\.?", re.IGNORECASE),
}
_ANY = {POINTS: re.compile(r"score\s*:", re.IGNORECASE), YES_NO: re.compile(r"verdict\s*:", re.IGNORECASE)}
_WORDS = {"yes": 1, "no": 0}
_EMPHASIS = "*_`# "

EMPTY, CUT_OFF, NO_VERDICT, NOT_LAST, CONTRADICTORY, OUT_OF_RANGE = (
    "the answer is empty",
    "the answer was cut off",
    "no line in the form that was asked for",
    "the verdict is not on the last line",
    "several verdicts that differ",
    "a score that is not a whole number of the scale",
)


class Verdict(NamedTuple):
    """A label, or the reason why there is none."""

    label: int | None
    reason: str | None = None


def read_verdict(answer: str, kind: str, finish: str | None = "stop") -> Verdict:
    """The verdict of an answer that ended for the reason `finish` (OpenAI's word: "stop", "length", ...).

    Emphasis around the line (`**Score: 4**`) and a final full stop are let pass; anything else is not.
    """
    if finish == "length":
        return Verdict(None, CUT_OFF)
    lines = [line.strip().strip(_EMPHASIS) for line in answer.strip().splitlines() if line.strip(_EMPHASIS + "\t\r")]
    if not lines:
        return Verdict(None, EMPTY)
    found = [match for line in lines if (match := _LINES[kind].fullmatch(line))]
    if not found:
        return Verdict(None, NO_VERDICT)
    if _LINES[kind].fullmatch(lines[-1]) is None:
        return Verdict(None, NOT_LAST)
    labels = {_label(match[1].lower(), kind) for match in found}
    if len(labels) > 1 or any(_ANY[kind].match(line) and not _LINES[kind].fullmatch(line) for line in lines):
        return Verdict(None, CONTRADICTORY)
    label = labels.pop()
    return Verdict(None, OUT_OF_RANGE) if label is None else Verdict(label)


def _label(said: str, kind: str) -> int | None:
    if kind == YES_NO:
        return _WORDS[said]
    lowest, highest = SCALES[kind]
    return int(said) if said.isdecimal() and lowest <= int(said) <= highest else None

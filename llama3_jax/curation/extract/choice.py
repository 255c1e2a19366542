"""Which lines of a page are its content.

First boilerplate goes, by the verdicts on containers; a verdict that would throw away most of a page's running text is
overruled. Then the content's container is found: those that say so, if they hold enough of what is left, or else the
innermost one that holds nearly all of it.
"""

import re
from itertools import accumulate
from typing import NamedTuple

from llama3_jax.curation.extract.blocks import Blocks
from llama3_jax.curation.extract.verdicts import BODY, COMMENTS, CONTENT, HEADER, NEUTRAL

_RUNNING = 40  # characters of a line outside of links from which on it counts as running text
_MOST_OF_A_PAGE = 0.5  # a container of boilerplate holds less of the running text than this
_MOST_OF_A_HEADER = 0.2
_ENOUGH = ((BODY, 0.35), (CONTENT, 0.5))  # share of the running text that containers of a kind must hold to be believed
_LONE_ARTICLE = 250  # characters of running text outside of comments that make a page an article
_SAME_RANK = 0.25  # of the largest: what another container holds to be content too
_DOMINANT = 0.85  # share of a container's running text in one inside it from which on the rest is beside the point
_LEAD = 400  # characters of running text that may stand before an article's body
_MOST_OF_A_LEAD = 0.4  # or this share of the body's
_VARYING = re.compile(r'\s(?!class=)[\w:-]+="[^"]*"|[-_]?\d+')


class Choice(NamedTuple):
    """Which lines are kept, and the ranges of lines that are content; whether answers are content on this page."""

    kept: list[bool]
    ranges: list[tuple[int, int]]
    is_discussion: bool


def choose(blocks: Blocks) -> Choice:
    """Chooses the content of a page."""
    is_discussion = any(verdict.discussion for verdict in blocks.meaning.verdicts)
    kinds = [verdict.kind for verdict in blocks.verdicts]
    if is_discussion:
        kinds = [NEUTRAL if kind == COMMENTS else kind for kind in kinds]
    weights = [
        size if size >= _RUNNING and size > links else 0
        for size, links in zip(blocks.plain, blocks.linked, strict=True)
    ]
    kept = [True] * len(weights)
    _remove(blocks, kinds, weights, kept)
    mass = [0, *accumulate(weight if keep else 0 for weight, keep in zip(weights, kept, strict=True))]
    ranges = _containers(blocks, kinds, mass)
    if is_discussion:
        ranges = _with_remarks(ranges, mass)
    return Choice(kept, ranges, is_discussion)


def _remove(blocks: Blocks, kinds: list[int], weights: list[int], kept: list[bool]) -> None:
    """Marks the lines of boilerplate and of comments on an article."""
    mass = [0, *accumulate(weights)]
    total = mass[-1]
    comments: list[tuple[int, int]] = []
    done = content_until = 0
    for kind, start, end in zip(kinds, blocks.starts, blocks.ends, strict=True):
        if kind == NEUTRAL or start >= end:
            continue
        held = mass[end] - mass[start]
        if kind in (CONTENT, BODY):
            content_until = max(content_until, end)
        elif kind == COMMENTS:
            if not comments or start >= comments[-1][1]:
                comments.append((start, end))
        elif end <= done or held > _MOST_OF_A_PAGE * total:
            continue
        elif kind != HEADER or (start >= content_until and held <= _MOST_OF_A_HEADER * total):
            kept[start:end] = [False] * (end - start)
            done = end
    in_comments = sum(mass[end] - mass[start] for start, end in comments)
    left = sum(weight for weight, keep in zip(weights, kept, strict=True) if keep) - in_comments
    if left >= _LONE_ARTICLE or in_comments == 0:
        for start, end in comments:
            kept[start:end] = [False] * (end - start)


def _containers(blocks: Blocks, kinds: list[int], mass: list[int]) -> list[tuple[int, int]]:
    """Ranges of lines of the content's containers, in order and without overlap."""
    for kind, enough in _ENOUGH:
        chosen = _named(blocks, kinds, mass, kind)
        if sum(mass[end] - mass[start] for start, end in chosen) >= max(1, enough * mass[-1]):
            return [_with_lead(blocks, kinds, mass, *chosen[0])] if kind == BODY and len(chosen) == 1 else chosen
    return [_dominant(blocks, mass)]


def _named(blocks: Blocks, kinds: list[int], mass: list[int], kind: int) -> list[tuple[int, int]]:
    """The containers of one kind that are content: the one that holds most, its like, and others of its size."""
    outer: list[int] = []
    for block, its_kind in enumerate(kinds):
        if its_kind == kind and (not outer or blocks.starts[block] >= blocks.ends[outer[-1]]):
            outer.append(block)
    held = {block: mass[blocks.ends[block]] - mass[blocks.starts[block]] for block in outer}
    most = max(held.values(), default=0)
    if most == 0:
        return []
    like = _VARYING.sub("", next(blocks.tags[block] for block in outer if held[block] == most))
    return [
        (blocks.starts[block], blocks.ends[block])
        for block in outer
        if held[block] >= _SAME_RANK * most or (_VARYING.sub("", blocks.tags[block]) == like)
    ]


def _with_remarks(ranges: list[tuple[int, int]], mass: list[int]) -> list[tuple[int, int]]:
    """The contributions to a discussion, and the lines of running text between them: remarks on them."""
    found: list[tuple[int, int]] = []
    for start, end in ranges:
        if found:
            found += [(line, line + 1) for line in range(found[-1][1], start) if mass[line + 1] > mass[line]]
        found.append((start, end))
    return found


def _with_lead(blocks: Blocks, kinds: list[int], mass: list[int], start: int, end: int) -> tuple[int, int]:
    """An article's body with the lead that stands before it in the article around it."""
    around = [
        first
        for kind, first, last in zip(kinds, blocks.starts, blocks.ends, strict=True)
        if kind == CONTENT and first <= start and last >= end
    ]
    first = max(around, default=start)
    most = max(_LEAD, _MOST_OF_A_LEAD * (mass[end] - mass[start]))
    return (first, end) if mass[start] - mass[first] < most else (start, end)


def _dominant(blocks: Blocks, mass: list[int]) -> tuple[int, int]:
    """The innermost container that still holds nearly all of the running text."""
    start, end = 0, blocks.ends[0]
    held = mass[end] - mass[start]
    for inner_start, inner_end in zip(blocks.starts, blocks.ends, strict=True):
        inside = mass[inner_end] - mass[inner_start]
        if start <= inner_start and inner_end <= end and inside > 0 and inside >= _DOMINANT * held:
            start, end, held = inner_start, inner_end, inside
    return start, end

"""Which texts of a page are its content.

First boilerplate goes, by the verdicts on blocks; a verdict that would throw away most of a page's running text is
overruled. Then the content's container is found: the blocks that say so, if they hold enough of what is left, or else
the innermost block that holds nearly all of it.
"""

import re
from itertools import accumulate

from llama3_jax.curation.extract.blocks import Blocks, kinds_of
from llama3_jax.curation.extract.verdicts import BODY, COMMENTS, CONTENT, HEADER, JUNK

_RUNNING = 40  # characters of text outside of links from which on it counts as running text
_MOST_OF_A_PAGE = 0.5  # a block of boilerplate holds less of the running text than this
_ENOUGH_BODY = 0.35  # share of the running text that blocks named as an article's body must hold to be believed
_ENOUGH_CONTENT = 0.5  # and blocks named as content
_LONE_ARTICLE = 250  # characters of running text outside of comments that make a page an article
_SAME_RANK = 0.25  # of the largest: what another container holds to be content too
_DOMINANT = 0.85  # share of a block's running text in one block inside it from which on the rest is beside the point
_VARYING = re.compile(r'\s(?!class=)[\w:-]+="[^"]*"|[-_]?\d+')


class Choice:
    """The texts kept, as a list of booleans, and the ranges they are in."""

    def __init__(self, kept: list[bool], ranges: list[tuple[int, int]]):
        self.kept = kept
        self.ranges = ranges


def choose(blocks: Blocks) -> Choice:
    """Chooses the content of a page."""
    count = len(blocks.texts)
    kinds, is_discussion = kinds_of(blocks)
    weights = [
        size if size >= _RUNNING and size > links else 0
        for size, links in zip(blocks.plain, blocks.linked, strict=True)
    ]
    kept = [True] * count
    if is_discussion:
        kinds = [0 if kind == COMMENTS else kind for kind in kinds]
    _remove(blocks, kinds, weights, kept)
    mass = [0, *accumulate(weight if keep else 0 for weight, keep in zip(weights, kept, strict=True))]
    ranges = _containers(blocks, kinds, mass)
    return Choice(kept, ranges)


def _remove(blocks: Blocks, kinds: list[int], weights: list[int], kept: list[bool]) -> None:
    """Marks the texts of boilerplate and of comments on an article."""
    mass = [0, *accumulate(weights)]
    total = mass[-1]
    comments = []
    done = 0
    inside_content = 0  # texts before this one are inside a container of content
    for block, kind in enumerate(kinds):
        if not kind:
            continue
        start, end = blocks.starts[block], blocks.ends[block]
        if kind == CONTENT or kind == BODY:
            inside_content = max(inside_content, end)
            continue
        if start >= end or end <= done:
            continue
        held = mass[end] - mass[start]
        if held > _MOST_OF_A_PAGE * total and kind != COMMENTS:
            continue
        if kind == HEADER:
            if start < inside_content or held > 0.2 * total:
                continue
        if kind == COMMENTS:
            if not comments or start >= comments[-1][1]:
                comments.append((start, end))
            continue
        kept[start:end] = [False] * (end - start)
        done = max(done, end)
    if not comments:
        return
    in_comments = sum(mass[end] - mass[start] for start, end in comments)
    left = sum(weight for weight, keep in zip(weights, kept, strict=True) if keep) - in_comments
    if left >= _LONE_ARTICLE or in_comments == 0:
        for start, end in comments:
            kept[start:end] = [False] * (end - start)


def _containers(blocks: Blocks, kinds: list[int], mass: list[int]) -> list[tuple[int, int]]:
    """Ranges of texts of the content's containers, in order and without overlap."""
    total = mass[-1]
    for kind, enough in ((BODY, _ENOUGH_BODY), (CONTENT, _ENOUGH_CONTENT)):
        chosen = _named(blocks, kinds, mass, kind)
        if chosen and sum(mass[blocks.ends[b]] - mass[blocks.starts[b]] for b in chosen) >= max(1, enough * total):
            return [(blocks.starts[block], blocks.ends[block]) for block in chosen]
    block = _dominant(blocks, mass, 0)
    return [(blocks.starts[block], blocks.ends[block])]


def _named(blocks: Blocks, kinds: list[int], mass: list[int], kind: int) -> list[int]:
    """The blocks of one kind that are content: the one that holds most, its like, and others of its size."""
    outer: list[int] = []
    for block, its_kind in enumerate(kinds):
        if its_kind == kind and (not outer or blocks.starts[block] >= blocks.ends[outer[-1]]):
            outer.append(block)
    held = {block: mass[blocks.ends[block]] - mass[blocks.starts[block]] for block in outer}
    most = max(held.values(), default=0)
    if most == 0:
        return []
    largest = next(block for block in outer if held[block] == most)
    like = _VARYING.sub("", blocks.tags[largest])
    return [b for b in outer if held[b] >= _SAME_RANK * most or (held[b] and _VARYING.sub("", blocks.tags[b]) == like)]


def _dominant(blocks: Blocks, mass: list[int], block: int) -> int:
    """The innermost block inside this one that still holds nearly all of the running text."""
    start, end = blocks.starts[block], blocks.ends[block]
    held = mass[end] - mass[start]
    for inner in range(block + 1, len(blocks.tags)):
        if blocks.starts[inner] >= end:
            break
        inside = mass[blocks.ends[inner]] - mass[blocks.starts[inner]]
        if inside >= _DOMINANT * held and blocks.ends[inner] <= end and inside > 0:
            if blocks.tags[inner].partition(" ")[0] in ("p", "pre", "td", "li", "blockquote", "tr", "tbody", "table"):
                break
            block, held, end = inner, inside, blocks.ends[inner]
    return block

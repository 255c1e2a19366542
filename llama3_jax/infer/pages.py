"""Whose pages are whose: reservation, sharing of common beginnings, copy on write (4.2.2; Kwon et al. 2023).

Plain Python, no arrays. A row is admitted only with all pages that its longest answer can need (4.2.2: "admit a request
only if that length fits"), so nothing is ever swapped out. Tokens whose keys and values have been computed form a tree
of pages: rows that begin alike hold the same pages, and where they part within a page the second one starts from a
copy. Pages that nobody holds stay in the tree until their place is needed, the least recently used first.
"""

import collections
import dataclasses
from collections.abc import Sequence

RECENT = 64  # pages looked at for a beginning that ends within a page


@dataclasses.dataclass(eq=False)
class Node:
    """One page of computed tokens, after those of its parents. Only a full page has children."""

    page: int
    tokens: list[int]
    parent: "Node | None"
    full: dict[tuple[int, ...], "Node"] = dataclasses.field(default_factory=dict)  # children by all their tokens
    partial: list["Node"] = dataclasses.field(default_factory=list)  # children that are not full


@dataclasses.dataclass(eq=False)
class Lease:
    """A row's pages, in order, for all tokens it may ever have."""

    pages: list[int]
    cached: int  # tokens that are there already: the row starts after them
    copy: tuple[int, int] | None  # page to copy, page to copy it to, before the row's first step
    _node: Node | None  # the last full page published
    _open: Node | None = None  # the page being filled, if published
    _published: int = 0


class PagePool:
    """Hands out pages. A page is free, held by leases, or idle: held by none and kept for its tokens."""

    def __init__(self, num_pages: int, page_size: int, *, share: bool = True):
        """Without `share` no page is ever held twice, which a comparison needs. Raises ValueError for sizes below 1."""
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a cache needs pages of at least one token, got {num_pages} pages of {page_size}")
        self.num_pages, self.page_size, self._share = num_pages, page_size, share
        self._root = Node(-1, [], None)
        self._free = list(range(num_pages))[::-1]
        self._holders = [0] * num_pages
        self._nodes: dict[int, Node] = {}  # by page
        self._idle: collections.OrderedDict[int, Node] = collections.OrderedDict()  # least recently used first

    @property
    def available(self) -> int:
        """Pages that a new lease could get."""
        return len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """Pages in leases, a shared one counted once."""
        return self.num_pages - self.available

    def pages_for(self, num_tokens: int) -> int:
        """Pages that so many tokens fill."""
        return -(-num_tokens // self.page_size)

    def cached_tokens(self, tokens: Sequence[int]) -> int:
        """How many of a prompt's first tokens a lease would find computed. Its last one never counts."""
        full, part = self._match(tokens[: len(tokens) - 1])
        return len(full) * self.page_size + (part[1] if part else 0)

    def lease(self, tokens: Sequence[int], num_tokens: int, *, reuse: bool = True) -> Lease | None:
        """Pages for `num_tokens`, which begin with `tokens` (a prompt), or None, nothing changed, if they do not fit.

        The prompt's last token is never taken from another row: its logits are wanted. Without `reuse` none is.
        """
        full, part = self._match(tokens[: len(tokens) - 1]) if reuse else ([], None)
        wanted = self.pages_for(num_tokens) - len(full)
        if wanted > self.available - sum(not self._holders[node.page] for node in full):
            return None
        for node in full:
            self._hold(node.page)
        fresh = [self._take() for _ in range(wanted)]
        copy = (part[0].page, fresh[0]) if part else None
        cached = len(full) * self.page_size + (part[1] if part else 0)
        node = full[-1] if full else self._root
        attached = node if self._share else None
        return Lease([node.page for node in full] + fresh, cached, copy, attached, None, len(full) * self.page_size)

    def publish(self, lease: Lease, tokens: Sequence[int]) -> None:
        """Lets others begin with `tokens`: all of the lease's tokens that are computed so far."""
        while lease._node is not None and lease._published < len(tokens):
            index = lease._published // self.page_size
            if lease._open is None:
                lease._open = Node(lease.pages[index], [], lease._node)
                lease._node.partial.append(lease._open)
                self._nodes[lease._open.page] = lease._open
            node = lease._open
            node.tokens.extend(tokens[lease._published : (index + 1) * self.page_size])
            lease._published = index * self.page_size + len(node.tokens)
            if len(node.tokens) == self.page_size:
                lease._open, lease._node = None, self._close(node)

    def release(self, lease: Lease) -> None:
        """Gives the lease back. Its published pages become idle, unless others hold them."""
        for page in reversed(lease.pages):  # the last first: it is to be forgotten first
            self._holders[page] -= 1
            if not self._holders[page]:
                if page in self._nodes:
                    self._idle[page] = self._nodes[page]
                else:
                    self._free.append(page)
        lease.pages, lease._node, lease._open = [], None, None

    def check(self) -> None:
        """Raises AssertionError unless every page is free, held or idle, and the tree says what it should."""
        held = {page for page in range(self.num_pages) if self._holders[page]}
        assert len(self._free) == len(set(self._free)) and not held & set(self._free)
        assert not held & self._idle.keys() and not self._idle.keys() & set(self._free)
        assert len(held) + len(self._idle) + len(self._free) == self.num_pages
        assert self._idle.keys() <= self._nodes.keys() and not self._nodes.keys() & set(self._free)
        for page, node in self._nodes.items():
            parent = node.parent
            assert node.page == page and parent is not None
            assert parent is self._root or self._nodes[parent.page] is parent
            assert parent is self._root or self._holders[parent.page] >= (self._holders[page] > 0)
            assert (parent.full.get(tuple(node.tokens)) is node) == (node not in parent.partial)

    def _close(self, node: Node) -> Node | None:
        """Files a page that became full; None if another one has the same tokens: this row goes on unseen."""
        parent, key = node.parent, tuple(node.tokens)
        assert parent is not None
        parent.partial.remove(node)
        if key in parent.full:
            del self._nodes[node.page]
            return None
        parent.full[key] = node
        return node

    def _match(self, tokens: Sequence[int]) -> tuple[list[Node], tuple[Node, int] | None]:
        """The full pages that `tokens` begin with, and the page that goes on furthest, with how many of its tokens."""
        node, full, size = self._root, [], self.page_size
        if not self._share:
            return full, None
        while True:
            rest = tokens[len(full) * size : (len(full) + 1) * size]
            following = node.full.get(tuple(rest)) if len(rest) == size else None
            if following is None:
                break
            node = following
            full.append(node)
        near = [*list(node.full.values())[-RECENT:], *node.partial[-RECENT:]]
        best = max(((other, _common(other.tokens, rest)) for other in near), key=lambda pair: pair[1], default=None)
        return full, best if best is not None and best[1] else None

    def _hold(self, page: int) -> None:
        self._holders[page] += 1
        self._idle.pop(page, None)

    def _take(self) -> int:
        """A page for a new holder. One is available."""
        page = self._free.pop() if self._free else self._forget()
        self._holders[page] += 1
        return page

    def _forget(self) -> int:
        """Takes the least recently used idle page without children out of the tree."""
        node = next(node for node in self._idle.values() if not node.full and not node.partial)
        assert node.parent is not None
        if node in node.parent.partial:
            node.parent.partial.remove(node)
        else:
            del node.parent.full[tuple(node.tokens)]
        del self._idle[node.page], self._nodes[node.page]
        return node.page


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    for count, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return count
    return min(len(left), len(right))

"""Who runs when: admission, continuous batching, prompts in pieces, fairness, ends (4.2.2).

Plain Python, no arrays, no clock and no model: time is handed in, `plan` says what the next step computes, `done` takes
the tokens that came of it. Plans may be made before the tokens of earlier ones are known (`plan, plan, done, ...`): a
row whose end shows only later has then computed one token too many, into pages of its own, and that token is dropped.

The rules:
- A request is admitted when a slot is free and its prompt and longest answer fit into pages, whatever ends it early.
- Owners take turns; an owner's requests stand in line. One that waits for pages is not overtaken: none starves.
- One whose beginning is just being computed by another waits to share its pages, and may be overtaken.
- Every step decodes all rows that can and computes at most `prefill_tokens` of prompts: none delays others for long.
- In a pipeline rows belong to groups of slots, which take turns: a row's next step is planned when its last is through.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from llama3_jax.infer.pages import Lease, PagePool
from llama3_jax.infer.request import Finish, Progress, Request, TokenScore

LOOK_AHEAD = 64  # requests of an owner that may overtake one that waits for another's pages


class QueueFull(RuntimeError):
    """No more requests may wait; try again later."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Sizes of the running system."""

    num_slots: int = 32  # rows that run at once
    num_pages: int = 512
    page_size: int = 64  # tokens
    max_length: int = 8192  # of a prompt and its answer
    prefill_tokens: int = 512  # of prompts in one step; also the longest piece of one prompt
    smallest_piece: int = 16  # pieces are rounded up to powers of two from here on
    max_waiting: int = 1024
    share_prefixes: bool = True
    num_groups: int = 1  # micro-batches under way at once, in a pipeline; a slot belongs to one

    def __post_init__(self):
        for field in (
            "num_slots",
            "num_pages",
            "page_size",
            "max_length",
            "prefill_tokens",
            "smallest_piece",
            "num_groups",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        if self.smallest_piece > self.prefill_tokens:
            raise ValueError(f"smallest_piece {self.smallest_piece} exceeds prefill_tokens {self.prefill_tokens}")

    @property
    def table_width(self) -> int:
        """Pages of the longest row."""
        return -(-self.max_length // self.page_size)


@dataclasses.dataclass(eq=False)
class Row:
    """A request that runs."""

    request: Request
    slot: int
    lease: Lease
    computed: int  # tokens whose keys and values are computed, or will be by the plans made so far
    issued: int = 0  # tokens of the answer that plans made so far draw
    output: list[int] = dataclasses.field(default_factory=list)  # tokens of the answer that are known
    finish: Finish | None = None

    @property
    def prompt_left(self) -> int:
        """Tokens of the prompt still to be computed."""
        return max(0, len(self.request.prompt) - self.computed)

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer, as far as known."""
        return [*self.request.prompt, *self.output]


@dataclasses.dataclass(frozen=True)
class Work:
    """What one row does in one step."""

    row: Row
    start: int  # tokens of the row before these
    tokens: tuple[int, ...] | None  # a piece of the prompt; None: the one token drawn last
    draw: int | None  # number of the answer's token that is drawn from the last logits; None: not yet the prompt's end

    @property
    def count(self) -> int:
        """Tokens computed."""
        return 1 if self.tokens is None else len(self.tokens)

    @property
    def scores_prompt(self) -> bool:
        """Whether these are tokens of a prompt that is scored."""
        return self.tokens is not None and self.row.request.sampling.prompt_logprobs is not None

    @property
    def ends_prompt(self) -> bool:
        """Whether the prompt is computed after this."""
        return self.start + self.count >= len(self.row.request.prompt)


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One step: admissions, then copies of pages, then one token for each row of `decode` and pieces of prompts."""

    admitted: tuple[Row, ...]
    copies: tuple[tuple[int, int], ...]  # (from, to)
    decode: tuple[Work, ...]
    prefill: tuple[Work, ...]
    piece: int  # length that pieces of prompts are padded to

    @property
    def batches(self) -> list[tuple[tuple[Work, ...], int]]:
        """Works that are computed together, and the length they are padded to."""
        return [(works, piece) for works, piece in ((self.decode, 1), (self.prefill, self.piece)) if works]

    @property
    def works(self) -> tuple[Work, ...]:
        """All works, in the order in which `done` takes their tokens."""
        return self.decode + self.prefill


class Scheduler:
    """See the module's rules. Not thread-safe."""

    def __init__(self, config: SchedulerConfig):
        self.config = config
        self.pool = PagePool(config.num_pages, config.page_size, share=config.share_prefixes)
        self.rows: dict[int, Row] = {}  # by slot, in order of admission
        self._free_slots = [
            list(range(group, config.num_slots, config.num_groups))[::-1] for group in range(config.num_groups)
        ]
        self._waiting: collections.OrderedDict[str, collections.deque[Request]] = collections.OrderedDict()
        self._deadlines: dict[Request, float] = {}
        self._news: list[Progress] = []
        self._group = -1  # whose turn it was last

    @property
    def num_waiting(self) -> int:
        """Requests not yet admitted."""
        return sum(map(len, self._waiting.values()))

    @property
    def idle(self) -> bool:
        """True when there is nothing to plan and nothing to tell."""
        return not (self.rows or self._waiting or self._news)

    def submit(self, request: Request, now: float = 0.0) -> None:
        """Puts a request in line. Raises ValueError for one that could never run, QueueFull when too many wait."""
        self._check(request)
        if self.num_waiting >= self.config.max_waiting:
            raise QueueFull(f"{self.config.max_waiting} requests are waiting already; try again later")
        self._waiting.setdefault(request.owner, collections.deque()).append(request)
        if request.timeout is not None:
            self._deadlines[request] = now + request.timeout

    def cancel(self, request: Request, finish: Finish = Finish.CANCELLED) -> bool:
        """Ends a request now, wherever it is; its pages are free at once. False if it is not here (any more)."""
        for row in self.rows.values():
            if row.request is request:
                self._end(row, finish)
                return True
        line = self._waiting.get(request.owner, ())
        if request not in line:
            return False
        line.remove(request)  # pyright: ignore[reportAttributeAccessIssue]
        if not line:
            del self._waiting[request.owner]
        self._tell_end(request, finish)
        return True

    def expire(self, now: float) -> None:
        """Ends every request whose time is over."""
        for request in [request for request, deadline in self._deadlines.items() if deadline <= now]:
            self.cancel(request, Finish.TIMEOUT)

    def plan(self) -> StepPlan | None:
        """What to compute next, or None when nothing can be before `done` is called or a request comes."""
        self._group = (self._group + 1) % self.config.num_groups
        admitted = tuple(self._admit())
        copies = tuple(row.lease.copy for row in admitted if row.lease.copy)
        decode = tuple(self._decode())
        piece, prefill = self._prefill()
        for work in decode + prefill:
            work.row.computed = work.start + work.count
            work.row.issued += work.draw is not None
            if work.tokens is not None:
                self.pool.publish(work.row.lease, work.row.request.prompt[: work.row.computed])
        if not (decode or prefill or admitted):
            return None
        return StepPlan(admitted, copies, decode, prefill, piece)

    def done(self, plan: StepPlan, tokens: Sequence[int], scores: Sequence[TokenScore | None] | None = None) -> None:
        """The tokens that `plan` gave, one per work (any for a work that draws none), in the order of plans."""
        for work, token, score in zip(plan.works, tokens, scores or [None] * len(tokens), strict=True):
            row, sampling = work.row, work.row.request.sampling
            if row.finish is not None:
                continue
            if work.draw is not None:
                row.output.append(token)
                self._news.append(Progress(request=row.request, token=token, score=score))
            if work.draw is not None and token in sampling.stop_ids:
                self._end(row, Finish.STOP)
            elif work.ends_prompt and len(row.output) >= sampling.max_new_tokens:
                self._end(row, Finish.LENGTH)

    def news(self) -> list[Progress]:
        """Tokens and ends since the last call."""
        news, self._news = self._news, []
        return news

    def _check(self, request: Request) -> None:
        prompt, config = len(request.prompt), self.config
        if not prompt:
            raise ValueError("the prompt is empty; give at least one token")
        total = request.num_tokens
        if total > config.max_length:
            raise ValueError(
                f"a prompt of {prompt} tokens and {request.sampling.max_new_tokens} new ones exceed the "
                f"longest sequence of {config.max_length}"
            )
        if self.pool.pages_for(total) > config.num_pages:
            raise ValueError(f"{total} tokens exceed the whole cache of {config.num_pages * config.page_size}")

    def _admit(self) -> Iterator[Row]:
        """Admits whom the rules allow; stops at the first one that must wait for pages."""
        turns, free = len(self._waiting), self._free_slots[self._group]
        while turns and len(free) == max(map(len, self._free_slots)) > 0:  # groups fill up evenly
            owner, line = next(iter(self._waiting.items()))
            near = enumerate(itertools.islice(line, LOOK_AHEAD))
            number = next((number for number, request in near if not self._waits_for_another(request)), None)
            if number is None:  # all are to share what is being computed
                self._waiting.move_to_end(owner)
                turns -= 1
                continue
            request = line[number]
            lease = self._lease(request)
            if lease is None:
                return
            del line[number]
            self._waiting.move_to_end(owner)
            if not line:
                del self._waiting[owner]
            turns = len(self._waiting)
            row = Row(request, free.pop(), lease, lease.cached)
            self.rows[row.slot] = row
            yield row

    def _lease(self, request: Request) -> Lease | None:
        return self.pool.lease(request.prompt, request.num_tokens, reuse=request.sampling.prompt_logprobs is None)

    def _waits_for_another(self, request: Request) -> bool:
        """Whether a row computes at least a page's worth of this prompt right now that nobody has computed yet."""
        if not self.config.share_prefixes or request.sampling.prompt_logprobs is not None:
            return False
        prompt, cached = request.prompt, None
        for row in self.rows.values():
            if row.prompt_left <= 1:
                continue
            cached = self.pool.cached_tokens(prompt) if cached is None else cached
            common = min(_common_beginning(row.request.prompt, prompt), len(prompt) - 1)
            if common - cached >= min(self.config.page_size, self.config.smallest_piece):
                return True
        return False

    def _turn(self) -> Iterator[Row]:
        """Rows of the group whose turn it is, in order of admission."""
        return (row for row in self.rows.values() if row.slot % self.config.num_groups == self._group)

    def _decode(self) -> Iterator[Work]:
        """One token for every row whose prompt is computed but for one token, and whose answer is not complete."""
        for row in self._turn():
            left, most = row.prompt_left, row.request.sampling.max_new_tokens
            if left == 0 and 0 < row.issued < most:
                yield Work(row, row.computed, None, row.issued)
            elif left == 1 and row.request.sampling.prompt_logprobs is None:
                yield Work(row, row.computed, tuple(row.request.prompt[-1:]), 0 if most else None)

    def _prefill(self) -> tuple[int, tuple[Work, ...]]:
        """The first rows' pieces of prompt, padded to one length, within the tokens of a step."""
        works: list[Work] = []
        piece = 0
        for row in self._turn():
            scored = row.request.sampling.prompt_logprobs is not None
            if row.prompt_left <= (0 if scored else 1):
                continue
            piece = piece or _power_of_two(min(row.prompt_left, self.config.prefill_tokens), self.config.smallest_piece)
            if works and (len(works) + 1) * piece > self.config.prefill_tokens:
                break
            tokens = tuple(row.request.prompt[row.computed : row.computed + min(piece, self.config.prefill_tokens)])
            draws = len(tokens) == row.prompt_left and row.request.sampling.max_new_tokens > 0
            works.append(Work(row, row.computed, tokens, 0 if draws else None))
        return piece, tuple(works)

    def _end(self, row: Row, finish: Finish) -> None:
        row.finish = finish
        known = row.tokens[: row.computed]
        self.pool.publish(row.lease, known)
        self.pool.release(row.lease)
        del self.rows[row.slot]
        self._free_slots[row.slot % self.config.num_groups].append(row.slot)
        self._tell_end(row.request, finish)

    def _tell_end(self, request: Request, finish: Finish) -> None:
        self._deadlines.pop(request, None)
        self._news.append(Progress(request=request, finish=finish))


def _power_of_two(count: int, least: int) -> int:
    """The smallest `least` times a power of two that is not below `count`."""
    while least < count:
        least *= 2
    return least


def _common_beginning(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning, by bisection: slices compare in C."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low

"""The scheduler without a model: a device that is a dictionary, and answers that a formula knows."""

import collections
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.infer.request import Finish, Request, SamplingConfig
from llama3_jax.infer.scheduler import QueueFull, Scheduler, SchedulerConfig, StepPlan

VOCAB = 5
SIZES = SchedulerConfig(
    num_slots=3, num_pages=14, page_size=4, max_length=40, prefill_tokens=8, smallest_piece=2, max_waiting=20
)


def next_token(tokens: list[int]) -> int:
    """The "model": what follows depends on everything before."""
    state = 7
    for token in tokens:
        state = (state * 31 + token + 1) % 1009
    return state % VOCAB


def answer(request: Request) -> tuple[list[int], Finish]:
    """What a request must get if nothing ends it early."""
    tokens = list(request.prompt)
    for _ in range(request.sampling.max_new_tokens):
        tokens.append(next_token(tokens))
        if tokens[-1] in request.sampling.stop_ids:
            return tokens[len(request.prompt) :], Finish.STOP
    return tokens[len(request.prompt) :], Finish.LENGTH


class Device:
    """Executes plans in order, as an engine does, and checks that every row finds its own tokens in its pages."""

    def __init__(self, sizes: SchedulerConfig):
        self.sizes = sizes
        self.pages: dict[tuple[int, int], int] = {}
        self.tables: dict[int, list[int]] = {}
        self.last: dict[int, int] = {}

    def run(self, plan: StepPlan) -> list[int]:
        for row in plan.admitted:
            self.tables[row.slot] = list(row.lease.pages)
        before = dict(self.pages)
        for source, target in plan.copies:
            for place in range(self.sizes.page_size):
                self.pages[target, place] = before.get((source, place), -1)
        assert len(plan.prefill) * plan.piece <= self.sizes.prefill_tokens or len(plan.prefill) == 1
        slots = [work.row.slot for work in plan.works]
        assert len(slots) == len(set(slots)) <= self.sizes.num_slots
        return [self._compute(work, work.tokens or (self.last[work.row.slot],)) for work in plan.works]

    def _compute(self, work, tokens) -> int:
        slot, size = work.row.slot, self.sizes.page_size
        for number, token in enumerate(tokens):
            place = work.start + number
            self.pages[self.tables[slot][place // size], place % size] = token
        end = work.start + len(tokens)
        whole = [self.pages[self.tables[slot][place // size], place % size] for place in range(end)]
        prompt = list(work.row.request.prompt)
        assert whole[: len(prompt)] == prompt[:end]
        token = next_token(whole)
        if work.draw is not None:
            assert work.draw == end - len(prompt)
            self.last[slot] = token
        return token


class Harness:
    """A scheduler, a device, and what was told about each request."""

    def __init__(self, sizes: SchedulerConfig = SIZES, ahead: int = 0):
        self.scheduler, self.device, self.ahead = Scheduler(sizes), Device(sizes), ahead
        self.flights: collections.deque = collections.deque()
        self.tokens: dict[Request, list[int]] = collections.defaultdict(list)
        self.finish: dict[Request, Finish] = {}
        self.peak = 0

    def step(self) -> StepPlan | None:
        plan = self.scheduler.plan()
        self.peak = max(self.peak, self.scheduler.pool.held)
        if plan is not None:
            self.flights.append((plan, self.device.run(plan)))
        if self.flights and (plan is None or len(self.flights) > self.ahead):
            self.scheduler.done(*self.flights.popleft())
        for progress in self.scheduler.news():
            assert progress.request not in self.finish, "told after the end"
            if progress.token is not None:
                self.tokens[progress.request].append(progress.token)
            if progress.finish is not None:
                self.finish[progress.request] = progress.finish
        self.scheduler.pool.check()
        return plan

    def run(self) -> None:
        for _ in range(10_000):
            if self.scheduler.idle and not self.flights:
                return
            self.step()
        raise AssertionError("it never ends")


def ask(prompt, new=4, **changes) -> Request:
    fields = {field: changes.pop(field) for field in ("owner", "timeout") if field in changes}
    return Request(prompt=list(prompt), sampling=SamplingConfig(max_new_tokens=new, **changes), **fields)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_every_request_gets_its_answer(ahead):
    harness = Harness(ahead=ahead)
    requests = [ask(range(n), new) for n, new in ((1, 1), (2, 30), (9, 4), (17, 7), (30, 10), (4, 0), (8, 8))]
    requests += [ask([1, 2, 3], 20, stop_ids=(2,))]
    for request in requests:
        harness.scheduler.submit(request)
    harness.run()
    assert harness.scheduler.pool.held == 0
    for request in requests:
        assert (harness.tokens[request], harness.finish[request]) == answer(request)


SHARED = ((1, 2, 3, 0, 1, 2, 3, 0, 1), (1, 2, 3, 0, 2, 2), (3, 3))
REQUESTS = st.builds(
    lambda start, rest, new, stop, owner, timeout: ask(
        (*start, *rest), new, stop_ids=stop, owner=owner, timeout=timeout
    ),
    st.sampled_from(SHARED),
    st.lists(st.integers(0, 3), max_size=8),
    st.integers(0, 12),
    st.sampled_from([(), (1,), (0, 4)]),
    st.sampled_from(["a", "b", ""]),
    st.sampled_from([None, None, 3.0]),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), REQUESTS),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("time"), st.integers(1, 2)),
    ),
    max_size=50,
)


@settings(deadline=None, max_examples=250)
@given(events=EVENTS, ahead=st.integers(0, 2), share=st.booleans())
def test_after_any_events_answers_are_right_and_no_page_is_lost(events, ahead, share):
    harness = Harness(dataclasses.replace(SIZES, share_prefixes=share), ahead)
    submitted: list[Request] = []
    cancelled: set[Request] = set()
    now = 0.0
    for kind, argument in events:
        if kind == "submit":
            try:
                harness.scheduler.submit(argument, now)
                submitted.append(argument)
            except QueueFull:
                assert harness.scheduler.num_waiting == SIZES.max_waiting
        elif kind == "cancel" and submitted:
            request = submitted[argument % len(submitted)]
            if harness.scheduler.cancel(request):
                cancelled.add(request)
        elif kind == "step":
            for _ in range(argument):
                harness.step()
        elif kind == "time":
            now += argument
            harness.scheduler.expire(now)
    harness.run()
    assert harness.scheduler.pool.held == 0 and len(harness.scheduler.rows) == 0
    assert harness.finish.keys() == set(submitted)
    for request in submitted:
        tokens, finish = answer(request)
        found = harness.tokens[request]
        assert found == tokens[: len(found)]
        if request in cancelled:
            assert harness.finish[request] is Finish.CANCELLED
        elif harness.finish[request] is Finish.TIMEOUT:
            assert request.timeout is not None
        else:
            assert (found, harness.finish[request]) == (tokens, finish)


def test_a_request_is_admitted_only_when_its_longest_answer_fits():
    """Five pages each, whatever the stop token makes of it, and 14 pages: two at a time."""
    harness = Harness(dataclasses.replace(SIZES, share_prefixes=False))
    for _ in range(3):
        harness.scheduler.submit(ask([1, 2, 3], 17))
    harness.step()
    assert len(harness.scheduler.rows) == 2 and harness.scheduler.pool.held == 10
    harness.run()
    assert harness.peak == 10


def test_samples_of_one_prompt_share_its_pages_and_compute_it_once():
    requests = [ask((1, 2, 3, 4, 0, 1, 2, 3, 4, 0), 2) for _ in range(3)]
    computed = {}
    for share in (True, False):
        harness = Harness(dataclasses.replace(SIZES, share_prefixes=share, prefill_tokens=16))
        for request in requests:
            harness.scheduler.submit(request)
        computed[share] = 0
        while not (harness.scheduler.idle and not harness.flights):
            plan = harness.step()
            computed[share] += sum(len(work.tokens or ()) for work in plan.works) if plan else 0
        computed[share, "pages"] = harness.peak
        assert all(harness.finish[request] is Finish.LENGTH for request in requests)
    assert computed[False] == 30 and computed[False, "pages"] == 9
    assert computed[True] == 10 + 2 and computed[True, "pages"] == 3 + 2  # two whole pages, and one each


def test_owners_take_turns():
    harness = Harness(dataclasses.replace(SIZES, num_slots=1))
    many = [ask([1, number], 1, owner="many") for number in range(6)]
    few = [ask([2, number], 1, owner="few") for number in range(2)]
    for request in many + few:
        harness.scheduler.submit(request)
    harness.run()
    assert list(harness.finish)[:4] == [many[0], few[0], many[1], few[1]]


def test_who_waits_for_pages_is_not_overtaken():
    harness = Harness(dataclasses.replace(SIZES, share_prefixes=False))
    first, large, small = ask([1] * 20, 10), ask([2] * 30, 10), ask([3], 1, owner="other")
    for request in (first, large):
        harness.scheduler.submit(request)
    harness.step()
    harness.scheduler.submit(small)
    while first not in harness.finish:
        harness.step()
        assert large in harness.finish or small not in harness.finish
    harness.run()
    assert harness.finish[large] is Finish.LENGTH and harness.finish[small] is Finish.LENGTH


def test_a_long_prompt_does_not_stop_those_that_run():
    """Each step computes one token for who runs, beside at most `prefill_tokens` of the long prompt."""
    harness = Harness()
    running, long = ask([1], 12), ask(range(3, 33), 2)
    harness.scheduler.submit(running)
    harness.step()
    harness.scheduler.submit(long)
    while long not in harness.finish and running not in harness.finish:
        plan = harness.step()
        assert plan is not None and sum(work.count for work in plan.prefill) <= SIZES.prefill_tokens
        assert any(work.row.request is running for work in plan.decode)


def test_a_request_whose_time_is_over_ends_wherever_it_is():
    harness = Harness(dataclasses.replace(SIZES, num_slots=1))
    runs, waits, patient = ask([1], 30, timeout=5.0), ask([2], 30, timeout=5.0), ask([3], 2)
    for request in (runs, waits, patient):
        harness.scheduler.submit(request, now=1.0)
    harness.step()
    harness.scheduler.expire(5.9)
    assert not harness.finish
    harness.scheduler.expire(6.0)
    harness.run()
    assert harness.finish == {runs: Finish.TIMEOUT, waits: Finish.TIMEOUT, patient: Finish.LENGTH}


def test_what_can_never_run_is_refused_and_too_many_are_told_to_come_back():
    scheduler = Scheduler(SIZES)
    for request, message in (
        (ask([]), "prompt is empty"),
        (ask([1] * 30, 11), "30 tokens and 11 new ones exceed the longest sequence of 40"),
    ):
        with pytest.raises(ValueError, match=message):
            scheduler.submit(request)
    with pytest.raises(ValueError, match="exceed the whole cache of 8"):
        Scheduler(dataclasses.replace(SIZES, num_pages=2)).submit(ask([1] * 8, 2))
    for _ in range(SIZES.max_waiting):
        scheduler.submit(ask([1]))
    with pytest.raises(QueueFull, match="20 requests are waiting"):
        scheduler.submit(ask([1]))
    assert not scheduler.cancel(ask([1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_slots": 0}, "num_slots must be positive"), ({"smallest_piece": 9}, "exceeds prefill_tokens 8")],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SIZES, **changes)

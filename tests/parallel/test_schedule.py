"""Schedules played with tags for arrays, on hundreds of shapes; their length, bubble and slots against formulas."""

import itertools
import types

import numpy as np
import pytest

from llama3_jax.parallel.schedule import IDLE, SCHEDULES, PipelineConfig, group_sizes, make_schedule

# Every N for few and many micro-batches, M under and over P, prime and not.
SHAPES = [
    (ranks, chunks, micro_batches, group)
    for ranks, chunks, micro_batches in itertools.product((1, 2, 3, 4, 8), (1, 2, 3, 5), (1, 2, 3, 5, 8, 10, 13))
    for group in range(1, micro_batches + 1)
]
COSTS = [(1, 2), (1, 3), (2, 1), (0.3, 7)]  # of a forward and a backward
DEAD = "poison"

all_kinds = pytest.mark.parametrize("kind", SCHEDULES)


def waits(schedule):
    """Ticks in which the first rank waits for the last between two chunks of a group smaller than P, added up."""
    sizes = group_sizes(schedule.micro_batches, schedule.group)
    return (schedule.chunks - 1) * sum(max(0, schedule.ranks - size) for size in sizes)


def work(schedule, table):
    """{(chunk of all, micro-batch): tick} of a table, and a list of its keys by rank in the order of ticks."""
    ticks, by_rank = {}, [[] for _ in range(schedule.ranks)]
    for tick, rank in np.argwhere(table.micro_TP != IDLE):
        key = int(table.chunk_TP[tick, rank]) * schedule.ranks + int(rank), int(table.micro_TP[tick, rank])
        assert key not in ticks, f"{key} runs twice"
        ticks[key] = int(tick)
        by_rank[rank].append(key)
    return ticks, by_rank


class Rank:
    """What one device holds, with tags for arrays. Slots are dead until written and right after their backward."""

    def __init__(self, schedule, rank):
        self.schedule, self.rank = schedule, rank
        self.last = schedule.ranks * schedule.chunks - 1
        self.inputs, self.gradients = [DEAD] * schedule.input_slots, [DEAD] * schedule.gradient_slots
        self.most_inputs = 0

    def put(self, ring, slot, tag):
        assert ring[slot] == DEAD, f"{ring[slot]} is overwritten by {tag}"
        assert tag != DEAD, "a message that nobody sent"
        ring[slot] = tag

    def receive(self, tick, output, gradient):
        """Writes the messages that arrived; one that no slot awaits is one that nobody wants."""
        for table, ring, message in (
            (self.schedule.forward, self.inputs, output),
            (self.schedule.backward, self.gradients, gradient),
        ):
            slot = table.arrival_TP[tick, self.rank]
            if slot != IDLE:
                self.put(ring, slot, message)
            else:
                assert message == DEAD, f"{message} is lost"

    def row(self, table, tick):
        """Chunk of all, micro-batch, and slots of the input and of the gradient; None when there is nothing to do."""
        row = {name: int(column[tick, self.rank]) for name, column in vars(table).items()}
        if row["micro_TP"] == IDLE:
            assert {row[name] for name in row if name != "arrival_TP"} == {IDLE}
            return None
        place = row["chunk_TP"] * self.schedule.ranks + self.rank
        return place, row["micro_TP"], row["input_TP"], row["gradient_TP"]

    def forward(self, tick):
        """Returns the message to the next rank."""
        row = self.row(self.schedule.forward, tick)
        if row is None:
            return DEAD
        place, micro, input_slot, gradient_slot = row
        if place == 0:  # the embedding
            self.put(self.inputs, input_slot, ("output", -1, micro))
        assert self.inputs[input_slot] == ("output", place - 1, micro)
        self.most_inputs = max(self.most_inputs, sum(tag != DEAD for tag in self.inputs))
        if place == self.last:  # the loss
            self.put(self.gradients, gradient_slot, ("gradient", place, micro))
            return DEAD
        assert gradient_slot == IDLE
        return "output", place, micro

    def backward(self, tick):
        """Returns the message to the rank before."""
        row = self.row(self.schedule.backward, tick)
        if row is None:
            return DEAD
        place, micro, input_slot, gradient_slot = row
        assert self.inputs[input_slot] == ("output", place - 1, micro)
        assert self.gradients[gradient_slot] == ("gradient", place, micro)
        self.inputs[input_slot] = self.gradients[gradient_slot] = DEAD
        return ("gradient", place - 1, micro) if place > 0 else DEAD


def play(schedule):
    """Runs a schedule as a device program does: arrivals, a forward, a backward, then one message each way around."""
    ranks = [Rank(schedule, rank) for rank in range(schedule.ranks)]
    outputs = gradients = [DEAD] * schedule.ranks
    for tick in range(schedule.ticks):
        for rank, output, gradient in zip(ranks, outputs, gradients, strict=True):
            rank.receive(tick, output, gradient)
        sent = [(rank.forward(tick), rank.backward(tick)) for rank in ranks]
        outputs = [sent[rank - 1][0] for rank in range(schedule.ranks)]
        gradients = [sent[(rank + 1) % schedule.ranks][1] for rank in range(schedule.ranks)]
    assert set(outputs) | set(gradients) == {DEAD}, "messages after the last tick"
    for rank in ranks:
        assert set(rank.inputs) | set(rank.gradients) == {DEAD}, "slots alive at the end"
    assert max(rank.most_inputs for rank in ranks) == schedule.input_slots, "a slot that nobody needs"


@all_kinds
@pytest.mark.parametrize("ranks", (1, 2, 3, 4, 8))
def test_played_with_tags(kind, ranks):
    for shape in SHAPES:
        if shape[0] == ranks:
            play(make_schedule(*shape, kind))


@all_kinds
def test_everything_runs_once_and_in_time(kind):
    """A tick has room for one forward and one backward a rank by its form; a message takes until the next tick."""
    for shape in SHAPES:
        ranks, chunks, micro_batches, _ = shape
        schedule = make_schedule(*shape, kind)
        last = ranks * chunks - 1
        everything = set(itertools.product(range(last + 1), range(micro_batches)))
        forward, _ = work(schedule, schedule.forward)
        backward, _ = work(schedule, schedule.backward)
        assert set(forward) == set(backward) == everything, shape
        for place, micro in everything:
            if place > 0:
                assert forward[place, micro] > forward[place - 1, micro], shape
            if place < last:
                assert backward[place, micro] > backward[place + 1, micro], shape
            assert backward[place, micro] >= forward[place, micro], shape


def test_forwards_and_backwards_run_group_by_group_chunk_by_chunk():
    for shape in SHAPES:
        ranks, chunks, micro_batches, group = shape
        groups = np.split(np.arange(micro_batches), np.cumsum(group_sizes(micro_batches, group))[:-1])
        order = [(chunk, micro) for group in groups for chunk in range(chunks) for micro in group]
        back = [(chunk, micro) for group in groups for chunk in reversed(range(chunks)) for micro in group]
        for kind in SCHEDULES:
            schedule = make_schedule(*shape, kind)
            for table, wanted in ((schedule.forward, order), (schedule.backward, back)):
                for rank, done in enumerate(work(schedule, table)[1]):
                    assert done == [(chunk * ranks + rank, micro) for chunk, micro in wanted], (shape, kind, rank)


def test_groups_differ_by_one_and_none_is_smaller_than_asked():
    for micro_batches in range(1, 40):
        for group in range(1, micro_batches + 1):
            sizes = group_sizes(micro_batches, group)
            assert sum(sizes) == micro_batches and len(sizes) == micro_batches // group
            assert min(sizes) >= group and max(sizes) - min(sizes) <= 1
            assert sizes == sorted(sizes, reverse=True)


def test_bubble_is_the_paper_s_whatever_a_pass_costs():
    """(P-1)/(V·M) when no group is smaller than P, whether or not N divides M."""
    for shape in [*SHAPES, (16, 8, 20, 16), (16, 8, 32, 16), (16, 8, 50, 16)]:
        ranks, chunks, micro_batches, group = shape
        if min(group_sizes(micro_batches, group)) >= ranks:
            for kind, costs in itertools.product(SCHEDULES, COSTS):
                bubble = make_schedule(*shape, kind).bubble(*costs)
                assert bubble == pytest.approx((ranks - 1) / (chunks * micro_batches), abs=1e-12), (shape, kind, costs)


def test_bubble_with_groups_smaller_than_the_pipeline():
    """The first rank also waits P-N ticks between two chunks of a group. 1f1b, with V > 1 and several groups, waits
    between groups too: as many ticks again for each group but one in N, if all have N."""
    for shape in SHAPES:
        ranks, chunks, micro_batches, group = shape
        sizes = group_sizes(micro_batches, group)
        for kind in SCHEDULES:
            schedule = make_schedule(*shape, kind)
            lost = [schedule.bubble(*costs) * chunks * micro_batches for costs in COSTS]
            assert lost == pytest.approx([lost[0]] * len(COSTS), abs=1e-9), "the ratio of costs is of no matter"
            least = ranks - 1 + waits(schedule)
            if kind == "gpipe" or sizes[-1] >= ranks or chunks == 1 or len(sizes) == 1:
                assert lost[0] == pytest.approx(least, abs=1e-9), (shape, kind)
            elif len(set(sizes)) == 1:
                between = (ranks - sizes[0]) * (len(sizes) - -(-len(sizes) // sizes[0]))
                assert lost[0] == pytest.approx(least + between, abs=1e-9), (shape, kind)
            else:
                assert lost[0] >= least - 1e-9, (shape, kind)


def test_fewer_micro_batches_than_ranks():
    """One group of M < P: forwards take V·P + M - 1 ticks."""
    for ranks, chunks, micro_batches, _ in SHAPES:
        if micro_batches < ranks:
            schedule = PipelineConfig(chunks=chunks).schedule_of(ranks, micro_batches)
            assert schedule.group == micro_batches
            wanted = (chunks * ranks + micro_batches - 1) / (chunks * micro_batches) - 1
            assert schedule.bubble() == pytest.approx(wanted, abs=1e-12)


def test_slots_of_1f1b_do_not_depend_on_the_number_of_micro_batches():
    """The last term of the gradients is for groups of two sizes, whose chunks pass each other."""
    for shape in SHAPES:
        ranks, chunks, micro_batches, group = shape
        sizes = group_sizes(micro_batches, group)
        largest, interleaved = sizes[0], chunks > 1
        beyond = max(0, largest - ranks) * interleaved
        inputs = min(chunks * micro_batches, (chunks - 1) * largest + 2 * (ranks - 1) + 1 + beyond)
        uneven = max(0, chunks - 2) if largest > ranks and sizes[-1] < largest else 0
        schedule = make_schedule(*shape)
        assert schedule.input_slots <= inputs and schedule.gradient_slots <= 1 + beyond + uneven, shape
        if sizes[-1] == largest:
            assert schedule.gradient_slots == 1 + beyond, shape
            assert schedule.input_slots == inputs or largest < ranks, shape


def test_slots_of_gpipe_hold_every_micro_batch():
    for shape in SHAPES:
        schedule = make_schedule(*shape, "gpipe")
        assert schedule.input_slots == shape[1] * shape[2], shape


def test_three_runs_of_ticks():
    """Forwards, both, backwards: what the bubble follows from."""
    for shape in SHAPES:
        ranks, chunks, micro_batches, group = shape
        if min(group_sizes(micro_batches, group)) >= ranks:
            schedule = make_schedule(*shape)
            largest = group_sizes(micro_batches, group)[0]
            one_way = (chunks - 1) * largest + ranks - 1
            both = chunks * micro_batches - (chunks - 1) * largest
            found = [
                (key, sum(phase.stop - phase.start for phase in phases))
                for key, phases in itertools.groupby(schedule.phases, lambda phase: (phase.forward, phase.backward))
            ]
            wanted = [((True, False), one_way), ((True, True), both), ((False, True), one_way)]
            assert found == [run for run in wanted if run[1]], shape


@all_kinds
def test_phases_say_what_runs_and_what_is_finished(kind):
    for shape in SHAPES:
        schedule = make_schedule(*shape, kind)
        forward, backward = ((t.micro_TP != IDLE).any(axis=1) for t in (schedule.forward, schedule.backward))
        assert schedule.phases[0].start == 0 and schedule.phases[-1].stop == schedule.ticks, shape
        for before, after in itertools.pairwise(schedule.phases):
            assert before.stop == after.start, shape
        finished = []
        for phase in schedule.phases:
            assert phase.stop > phase.start, shape
            assert (forward[phase.start : phase.stop] == phase.forward).all(), shape
            assert (backward[phase.start : phase.stop] == phase.backward).all(), shape
            finished += phase.finished
            later = schedule.backward.chunk_TP[phase.stop :]
            for chunk in range(schedule.chunks):
                assert (chunk in finished) == (not (later == chunk).any()), (shape, chunk)
        assert sorted(finished) == list(range(schedule.chunks)), shape


def test_late_weight_gradients_would_fall_in_the_same_ticks():
    """docs/pipeline.md derives from it what a schedule with weight gradients split off costs: rank r runs the weight
    gradients of a backward r ticks after it."""
    for shape in SHAPES:
        ranks, chunks, micro_batches, group = shape
        if min(group_sizes(micro_batches, group)) >= ranks:
            schedule = make_schedule(*shape)
            runs = [set(np.flatnonzero(schedule.backward.micro_TP[:, rank] != IDLE) + rank) for rank in range(ranks)]
            assert all(ticks == runs[0] for ticks in runs), shape
            assert len(runs[0]) == chunks * micro_batches and max(runs[0]) == schedule.ticks - 1, shape


def test_order_is_that_of_torch():
    """Interleaved 1F1B of torch.distributed.pipelining, whose N follows from M and P."""
    torch_schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    names = {"FORWARD": "forward", "FULL_BACKWARD": "backward"}
    for ranks, chunks, micro_batches in itertools.product((2, 3, 4, 8), (1, 2, 3), (2, 4, 8, 10, 12, 16)):
        rounds = max(1, micro_batches // ranks)
        if micro_batches % rounds:
            continue  # torch refuses it
        group = micro_batches // rounds
        schedule = make_schedule(ranks, chunks, micro_batches, group)
        theirs = types.SimpleNamespace(
            n_local_stages=chunks, microbatches_per_round=group, pp_group_size=ranks, _n_microbatches=micro_batches
        )
        for rank in range(ranks):
            order = torch_schedules.ScheduleInterleaved1F1B._calculate_single_rank_operations(theirs, rank)
            wanted = [(names[op.computation_type.name], op.stage_index, op.microbatch_index) for op in order if op]
            found = []
            for tick in range(schedule.ticks):
                for name in ("forward", "backward"):
                    table = getattr(schedule, name)
                    if table.micro_TP[tick, rank] != IDLE:
                        place = table.chunk_TP[tick, rank] * ranks + rank
                        found.append((name, place, table.micro_TP[tick, rank]))
            assert found == wanted, (ranks, chunks, micro_batches, rank)


def test_tables_are_shared_and_cannot_be_written():
    schedule = make_schedule(2, 1, 4, 2)
    assert make_schedule(2, 1, 4, 2) is schedule and hash(schedule)
    with pytest.raises(ValueError, match="read-only"):
        schedule.forward.micro_TP[0, 0] = 1


def test_config_takes_the_ranks_for_the_group():
    assert PipelineConfig(chunks=2).schedule_of(4, 10) is make_schedule(4, 2, 10, 4, "1f1b")
    assert PipelineConfig(chunks=2, group=5).schedule_of(4, 10) is make_schedule(4, 2, 10, 5, "1f1b")
    assert PipelineConfig(schedule="gpipe").schedule_of(4, 3) is make_schedule(4, 1, 3, 3, "gpipe")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_schedule(4, 1, 0, 1), "at least 1 micro-batch, got 0"),
        (lambda: make_schedule(4, 1, 8, 9), "N = 9 is outside 1 to M = 8 micro-batches; nearest legal: 8"),
        (lambda: make_schedule(4, 1, 8, 0), "N = 0 is outside 1 to M = 8 micro-batches; nearest legal: 1"),
        (lambda: make_schedule(4, 1, 8, 4, "zb"), "'zb' is not one of 1f1b, gpipe"),
        (lambda: make_schedule(0, 1, 8, 4), "at least one rank and one chunk a rank, got 0 and 1"),
        (lambda: make_schedule(4, 0, 8, 4), "got 4 and 0"),
        (lambda: PipelineConfig(schedule="zb"), "pipeline.schedule 'zb' is not one of 1f1b, gpipe"),
        (lambda: PipelineConfig(vocabulary="last"), "pipeline.vocabulary 'last' is not one of stages, ends"),
        (lambda: PipelineConfig(chunks=0), "pipeline.chunks must be at least 1, got 0"),
        (lambda: PipelineConfig(group=9).schedule_of(4, 8), "nearest legal: 8"),
        (lambda: PipelineConfig(group=0).schedule_of(4, 8), "nearest legal: 1"),
    ],
)
def test_refusals_name_the_numbers(call, words):
    with pytest.raises(ValueError, match=words):
        call()

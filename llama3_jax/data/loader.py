"""Batches for training as a pure function of (plan, seed, step), and an iterator that prepares them ahead, by Grain.

Nothing here has a position to save: a run resumes at any step, on any number of hosts, by asking for that step's rows.
The plan is a list of `DataSegment`s; where each source stands when a segment begins follows from the rows that earlier
ones took, so that changing mixture, batch size or sequence length loses and doubles nothing (paper section 3.4.1: batch
size and mixture change during pre-training; 3.4.2: the sequence length grows in six stages).
"""

import bisect
import contextlib
import gc
import importlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from llama3_jax.data.mixture import Mixture
from llama3_jax.data.packing import (
    BestFitPacker,
    ConcatPacker,
    Fragments,
    Packer,
    hash_permutation,
    place_rows,
    read_rows,
)
from llama3_jax.data.token_store import TokenStore

# Numbers of rows in the whole batch; None is all of them.
Rows = Sequence[int] | np.ndarray | slice | None
PACKINGS = ("concat", "best_fit")
_LANE_ORDER = 4  # a salt beside those of packing.py
_GRAIN_SHARED_MEMORY = "grain._src.python.ipc.shared_memory_array"


@dataclass(frozen=True, kw_only=True)
class DataSegment:
    """A run of steps with one batch shape and one mixture.

    `weights` maps source names to shares of the rows, in any unit; sources left out get none. `batch_rows` is the whole
    batch, over all hosts; `sequence_length` is in tokens. Raises ValueError naming the field that is out of range.
    """

    start_step: int
    num_steps: int
    batch_rows: int
    sequence_length: int
    weights: Mapping[str, float]

    def __post_init__(self):
        for name, least in {"start_step": 0, "num_steps": 1, "batch_rows": 1, "sequence_length": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"DataSegment.{name} is {getattr(self, name)}; it must be at least {least}.")

    @property
    def stop_step(self) -> int:
        return self.start_step + self.num_steps


@dataclass(frozen=True)
class _Placed:
    """A segment with what came before it: all rows, each source's rows [sources], and its lanes' cursors there."""

    segment: DataSegment
    mixture: Mixture
    first_row: int
    first_ranks: np.ndarray
    cursors: list[np.ndarray]


class BatchSource:
    """Batches by step. Segments follow one another without a gap; each source starts at its epoch 0 with the first.

    `packing` is "concat" (documents are cut where a row ends) or "best_fit" (rows hold whole documents;
    `long_documents` says what happens to longer ones). A source's rows come in shuffled turns from its `lanes` lanes,
    distant places of its stream; how far a lane is depends on the past alone. Rows are numbered through the whole plan
    and the mixture assigns them by number, so that cutting a segment in two changes nothing.

    Raises ValueError for segments that leave a gap, weights of unknown sources, an unknown packing, and for "best_fit"
    with a source that the plan reads at more than one sequence length. Pickles small: stores are reopened by the copy.
    """

    def __init__(
        self,
        segments: Sequence[DataSegment],
        sources: Mapping[str, TokenStore],
        *,
        seed: int,
        packing: str = "concat",
        long_documents: str = "split",
        lanes: int = 256,
    ):
        _check_plan(segments, sources)
        if packing not in PACKINGS:
            raise ValueError(f"packing {packing!r} is not one of {', '.join(PACKINGS)}.")
        self.names, self._seed = tuple(sorted(sources)), seed
        self._packers: list[Packer | None] = []
        for name in self.names:
            lengths = sorted({s.sequence_length for s in segments if s.weights.get(name, 0) > 0})
            if packing == "concat":
                self._packers.append(ConcatPacker(sources[name], seed=seed, lanes=lanes))
            elif len(lengths) > 1:
                raise ValueError(
                    f"Source {name!r} is read at sequence lengths {lengths}; best-fit rows are packed for one length, "
                    "and a source's place in them would be lost with a change. Use packing='concat'."
                )
            else:
                options = {"seed": seed, "long_documents": long_documents}
                packer = BestFitPacker(sources[name], sequence_length=lengths[0], **options) if lengths else None
                self._packers.append(packer)
        self._placed = self._place(segments)
        self._starts = [placed.segment.start_step for placed in self._placed]

    def _place(self, segments: Sequence[DataSegment]) -> list[_Placed]:
        placed, first_row = [], 0
        ranks = np.zeros(len(self.names), np.int64)
        cursors = [np.zeros(packer.num_lanes if packer else 1, np.int64) for packer in self._packers]
        for segment in segments:
            mixture = Mixture({name: segment.weights.get(name, 0) for name in self.names})
            placed.append(_Placed(segment, mixture, first_row, ranks, cursors))
            ranks, cursors = self._advance(placed[-1], segment.num_steps)
            first_row += segment.num_steps * segment.batch_rows
        return placed

    def _advance(self, placed: _Placed, num_steps: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Each source's rows [sources], and its lanes' cursors, after `num_steps` steps of a segment."""
        last_row = placed.first_row + num_steps * placed.segment.batch_rows
        ranks = placed.first_ranks + self._taken(placed, np.asarray(last_row))
        strides = self._strides(placed.segment.sequence_length)
        cursors = [
            cursor + _rows_of_lanes(int(first), int(last), cursor.size, self._seed) * stride
            for cursor, first, last, stride in zip(placed.cursors, placed.first_ranks, ranks, strides, strict=True)
        ]
        return ranks, cursors

    def _taken(self, placed: _Placed, plan_rows: np.ndarray) -> np.ndarray:
        """Rows of each source between a segment's start and `plan_rows` [...], int64 [..., sources]."""
        return placed.mixture.rows_before(plan_rows) - placed.mixture.rows_before(placed.first_row)

    def _strides(self, sequence_length: int) -> np.ndarray:
        return np.array([packer.stride(sequence_length) if packer else 0 for packer in self._packers], np.int64)

    def _at(self, step: int) -> _Placed:
        if not self._starts[0] <= step < self._placed[-1].segment.stop_step:
            stop = self._placed[-1].segment.stop_step
            raise ValueError(f"Step {step} is outside the plan, which covers steps {self._starts[0]} to {stop - 1}.")
        return self._placed[bisect.bisect_right(self._starts, step) - 1]

    def segment_at(self, step: int) -> DataSegment:
        """The segment that holds `step`. Raises ValueError outside the plan."""
        return self._at(step).segment

    def batch(self, step: int, rows: Rows = None) -> dict[str, np.ndarray]:
        """The given rows of a step's batch, all of them by default: arrays [R, S], packing.ROW_DTYPES.

        `rows` are numbers in the whole batch, so hosts that ask for a partition of them get a partition of the batch.
        Raises ValueError for a step outside the plan or a row outside the batch, and what reading a store raises.
        """
        return place_rows(self.read(step, rows))

    def read(self, step: int, rows: Rows = None) -> dict[str, np.ndarray]:
        """`batch` before packing.place_rows, a fifth of its size: what travels between processes."""
        placed = self._at(step)
        segment = placed.segment
        of_batch = np.arange(segment.batch_rows)
        if rows is not None:
            of_batch = of_batch[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if of_batch.size == 0 or of_batch.min() < 0 or of_batch.max() >= segment.batch_rows:
            raise ValueError(f"Step {step} has rows 0 to {segment.batch_rows - 1}; asked for {of_batch.tolist()}.")
        first_row = placed.first_row + (step - segment.start_step) * segment.batch_rows
        return read_rows(self._fragments(placed, first_row + of_batch), of_batch.size, segment.sequence_length)

    def _fragments(self, placed: _Placed, plan_rows: np.ndarray) -> list[tuple[TokenStore, Fragments]]:
        """Where the rows with these numbers in the whole plan come from, store by store, numbered as given."""
        size = placed.segment.sequence_length
        strides = self._strides(size)
        source_of, taken = placed.mixture.source_of(plan_rows), self._taken(placed, plan_rows)
        parts = []
        for source in np.unique(source_of).tolist():
            packer, lane_cursors = self._packers[source], placed.cursors[source]
            places, found = np.nonzero(source_of == source)[0], []
            first, num_lanes = int(placed.first_ranks[source]), lane_cursors.size
            cycles, turns = np.divmod(first + taken[places, source], num_lanes)
            orders = {cycle: _lane_order(num_lanes, self._seed, cycle) for cycle in np.unique(cycles).tolist()}
            lanes = np.array([orders[cycle][turn] for cycle, turn in zip(cycles.tolist(), turns.tolist(), strict=True)])
            nth = cycles - _rows_of_lanes(0, first, num_lanes, self._seed)[lanes]
            for lane in np.unique(lanes).tolist():
                of_lane = np.nonzero(lanes == lane)[0]
                for run in np.split(of_lane, np.nonzero(np.diff(nth[of_lane]) != 1)[0] + 1):
                    cursor = int(lane_cursors[lane] + nth[run[0]] * strides[source])
                    found.append(packer.fragments(lane, cursor, run.size, size).in_rows(places[run]))
            parts.append((packer.store, Fragments.join(found)))
        return parts

    def epochs(self, step: int) -> dict[str, float]:
        """How many epochs of each source the steps before `step` have read; `step` may be the plan's end."""
        placed = self._at(max(step - 1, self._starts[0]))
        _, cursors = self._advance(placed, step - placed.segment.start_step)
        return {
            name: float(cursor.sum()) / packer.epoch_length if packer else 0.0
            for name, cursor, packer in zip(self.names, cursors, self._packers, strict=True)
        }


def _lane_order(num_lanes: int, seed: int, cycle: int) -> np.ndarray:
    """The lanes in the order in which a source's rows of one cycle come from them, int64 [lanes]."""
    return hash_permutation(num_lanes, seed, cycle, _LANE_ORDER)


def _rows_of_lanes(first: int, last: int, num_lanes: int, seed: int) -> np.ndarray:
    """How many of a source's rows [first, last) each lane provides, int64 [lanes]; every cycle takes one from each."""

    def before(row: int) -> np.ndarray:
        counts = np.full(num_lanes, row // num_lanes)
        counts[_lane_order(num_lanes, seed, row // num_lanes)[: row % num_lanes]] += 1
        return counts

    return before(last) - before(first)


def _check_plan(segments: Sequence[DataSegment], sources: Mapping[str, TokenStore]) -> None:
    if not segments:
        raise ValueError("A plan needs at least one DataSegment.")
    for before, after in zip(segments, segments[1:], strict=False):
        if after.start_step != before.stop_step:
            raise ValueError(f"A segment ends at step {before.stop_step}, the next starts at {after.start_step}.")
    tokenizers = {name: store.manifest.tokenizer_fingerprint for name, store in sources.items()}
    if len(set(tokenizers.values())) > 1:
        raise ValueError(f"Sources were made by different tokenizers: {tokenizers}.")
    for segment in segments:
        unknown = sorted(set(segment.weights) - set(sources))
        if unknown:
            raise ValueError(
                f"The mixture at step {segment.start_step} names sources {unknown}; there are {sorted(sources)}."
            )


@dataclass(frozen=True)
class _ReadStep:
    """What Grain maps over step numbers; a class, so that it can be sent to worker processes."""

    source: BatchSource
    rows: Rows

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        return self.source.read(int(step), self.rows)


class Loader(Iterator[dict[str, np.ndarray]]):
    """Batches in the order of steps, prepared ahead; made by `make_loader`.

    Close it, or use it as a context manager, to end its workers; the end of the steps, an error, the loader's own end
    and the program's do so too. An error in a worker is raised here as it was there.
    """

    def __init__(self, iterator: grain.DatasetIterator):
        self._held = [iterator]  # the only reference, so that closing lets go of it
        self._finalizer = weakref.finalize(self, _close, self._held)

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._held:
            raise StopIteration
        try:
            return next(self._held[0])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends background work; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _close(held: list[grain.DatasetIterator]) -> None:
    """Ends an iterator's workers and what they left, also what Grain 0.2.18 would leave behind."""
    held.pop().close()
    # Grain's close ends only workers it has already read from; it ends the others, and lets go of what was read ahead,
    # when they are collected. They sit in reference cycles, so without this that is as late as interpreter shutdown.
    gc.collect()
    # It frees shared memory in a background thread, which the program's end may cut short: wait for that thread.
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        importlib.import_module(_GRAIN_SHARED_MEMORY).SharedMemoryArray._del_thread_pool.apply(int)


def make_loader(
    source: BatchSource,
    *,
    start_step: int,
    stop_step: int,
    rows: Rows = None,
    num_workers: int = 0,
    prefetch_batches: int = 2,
) -> Loader:
    """An iterator over the batches of steps [start_step, stop_step), `rows` of each (BatchSource.batch).

    One element is this host's whole batch, so Grain's cost for each element is small. With no workers one thread keeps
    `prefetch_batches` ready (0: none, each is made when asked for). With workers, that many processes take turns at
    steps and share the number. They are spawned: a script's main module must guard its start with
    `if __name__ == "__main__"`. Raises ValueError for numbers out of range.
    """
    if stop_step <= start_step or num_workers < 0 or prefetch_batches < 0:
        raise ValueError(
            f"Steps {start_step} to {stop_step}, {num_workers} workers and {prefetch_batches} batches ahead: "
            "there must be at least one step, and neither number may be negative."
        )
    for step in (start_step, stop_step - 1):
        source.segment_at(step)
    reads = grain.MapDataset.range(start_step, stop_step).map(_ReadStep(source, rows))
    if num_workers:
        batches = _in_workers(reads, num_workers, max(1, -(-prefetch_batches // num_workers))).map(place_rows)
    else:
        # More threads would wait for each other: most of the work holds Python's lock or is TensorStore's own threads'.
        threads = grain.ReadOptions(num_threads=min(1, prefetch_batches), prefetch_buffer_size=prefetch_batches)
        batches = reads.map(place_rows).to_iter_dataset(threads)
    return Loader(iter(batches))


def _in_workers(reads: grain.MapDataset, num_workers: int, ahead: int) -> grain.IterDataset:
    """Runs `reads` in processes, each `ahead` elements ahead.

    Elements come back through fresh shared memory, whose pages the kernel must zero: sending whole rows that way halved
    the rate, so workers send what was read and rows are laid out on the receiving side.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads an absl flag here, which fails in a program without absl.app
    one_by_one = reads.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return one_by_one.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=ahead))

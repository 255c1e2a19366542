"""A pipeline over the stage axis as one program that reads a schedule (Llama 3, 3.3.2; Narayanan et al. 2021).

Every device runs the same loops over the ticks of a `Schedule`: forwards, forwards and backwards, backwards. In a tick
it puts the messages that arrived into rings of slots, runs one chunk of its layers forward, another backward, and sends
on what came out. Backward passes are explicit: gradients are added up in float32 as they come, and what lives between a
forward and its backward lies in the rings, so memory depends on the schedule's slots, not on the number of
micro-batches. A rank that has nothing to do in a tick computes on whatever is there, and nothing of it is kept.

Embedding and output head run on all ranks at once, in the ticks in which a micro-batch enters or leaves the layers:
their vocabulary is split over the stage axis too, so that no rank waits for another to work through it alone.

All of this runs inside `shard_map`, on a device's own parts. Data-parallel replicas meet only when the gradients of a
chunk are complete: these are reduced while the backwards of other chunks still run.

Letters: T ticks, P ranks, V chunks a rank, C layers of a chunk, I and J slots of the rings.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from llama3_jax.parallel.schedule import IDLE, Pass, Phase, Schedule

STAGE = "stage"  # the mesh axis over which layers are split
Tree = Any  # a pytree of arrays
Column = Any  # of a table on the host, or its entry in the present tick


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """A model cut where a pipeline cuts it: functions of one device's own parts.

    embed: (outer, micro-batch) -> x, the input of the first layer; `outer` are the parameters outside the layers.
    shared: micro-batch -> what all its layers need besides x, and cannot be trained through.
    layer: (places, weights, x, shared) -> x, one layer. Gradients go to `places`, float32 zeros shaped as the weights.
    head: (outer, x, micro-batch) -> (loss sum, sums), float32 scalars.
    reduce: gradients of one chunk's layers [C, ...] -> their sums over all tokens, split as they are stored.
    """

    embed: Callable[[Tree, Tree], jax.Array]
    shared: Callable[[Tree], Tree]
    layer: Callable[[Tree, Tree, jax.Array, Tree], jax.Array]
    head: Callable[[Tree, jax.Array, Tree], tuple[jax.Array, dict[str, jax.Array]]]
    reduce: Callable[[Tree], Tree]


class PassRow(NamedTuple):
    """What a rank does in a tick in one direction. Idle ticks have the ring's spare slot, which is never read."""

    runs: Column
    micro: Column
    chunk: Column
    input: Column
    gradient: Column
    arrival: Column
    first: Column  # the pass of the first chunk of all: takes the embedding, or hands its gradient back


class RankRow(NamedTuple):
    """A tick on one rank."""

    forward: PassRow
    backward: PassRow
    last: Column  # the forward is that of the last chunk of all


class SharedRow(NamedTuple):
    """Micro-batches that enter, leave, and come back to the embedding in a tick, IDLE for none: on all ranks alike."""

    embed: Column
    head: Column
    unembed: Column


class Carry(NamedTuple):
    """What lives from tick to tick."""

    inputs: jax.Array  # ring [I+1, ...] of chunk inputs
    gradients: jax.Array  # ring [J+1, ...] of gradients of chunk outputs
    kept: list[jax.Array]  # rings [I+1, ...] of what a forward keeps for its backward
    sent: jax.Array  # on its way to the next rank
    returned: jax.Array  # on its way to the previous one
    loss: jax.Array
    sums: dict[str, jax.Array]
    outer: Tree  # float32 gradients of the parameters outside the layers
    layers: Tree  # float32 gradients of this rank's layers [V, C, ...]


def schedule_rows(schedule: Schedule) -> tuple[RankRow, SharedRow]:
    """The schedule as arrays on the host: [T, P], to be split over the stage axis, and [T], the same everywhere."""
    forward, backward = schedule.forward, schedule.backward
    first, first_back = (_on_rank(run.chunk_TP == 0, 0) for run in (forward, backward))
    last = _on_rank(forward.chunk_TP == schedule.chunks - 1, schedule.ranks - 1)
    rows = RankRow(
        _pass_row(forward, first, schedule, schedule.input_slots),
        _pass_row(backward, first_back, schedule, schedule.gradient_slots),
        last,
    )
    micro_of = lambda run, flags_TP: np.where(flags_TP, run.micro_TP, IDLE).max(axis=1)
    return rows, SharedRow(micro_of(forward, first), micro_of(forward, last), micro_of(backward, first_back))


def _pass_row(run: Pass, first: np.ndarray, schedule: Schedule, arrivals: int) -> PassRow:
    slot = lambda table, spare: np.where(table == IDLE, spare, table)
    return PassRow(
        runs=run.micro_TP != IDLE,
        micro=np.maximum(run.micro_TP, 0),
        chunk=np.maximum(run.chunk_TP, 0),
        input=slot(run.input_TP, schedule.input_slots),
        gradient=slot(run.gradient_TP, schedule.gradient_slots),
        arrival=slot(run.arrival_TP, arrivals),
        first=first,
    )


def _on_rank(flags_TP: np.ndarray, rank: int) -> np.ndarray:
    return flags_TP & (np.arange(flags_TP.shape[1]) == rank)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One device's share of a pipelined step: what does not change from tick to tick.

    `weights` are this rank's layers [V, C, ...], `real` [V, C] says which rows hold a layer at all, `batch` holds all
    micro-batches [M, ...]. With `keep` a forward keeps what the layers' own rematerialisation lets it, and the backward
    begins there; without, it begins at the chunk's input. `empty` fills slots that hold nothing (NaN in tests: nothing
    of them may be used).
    """

    parts: Parts
    schedule: Schedule
    outer: Tree
    weights: Tree
    real: jax.Array
    batch: Tree
    keep: bool
    empty: float = 0.0

    def run(self, rank_rows: RankRow, shared_rows: SharedRow) -> tuple[jax.Array, dict[str, jax.Array], Tree, Tree]:
        """`(loss, sums, outer gradients, layer gradients)`: all but the last of this device's tokens only.

        `rank_rows` are this rank's columns [T]. Layer gradients are [V, C, ...], reduced.
        """
        carry, finished = self._start(), {}
        for phase in self.schedule.phases:
            rows = jax.tree.map(lambda column, phase=phase: column[phase.start : phase.stop], (rank_rows, shared_rows))
            carry, _ = lax.scan(functools.partial(self._tick, phase), carry, rows)
            for chunk in phase.finished:
                gradients = jax.tree.map(lambda g, chunk=chunk: g[chunk], carry.layers)
                # Cut out before the next loop begins, which else would have to work on a copy of all of them; and when
                # the chunk before is reduced, so that one reduction at a time runs beside a loop.
                carry, gradients, finished = lax.optimization_barrier((carry, gradients, finished))
                finished[chunk] = self.parts.reduce(gradients)
        layers = jax.tree.map(lambda *chunks: jnp.stack(chunks), *(finished[c] for c in range(self.schedule.chunks)))
        return carry.loss, carry.sums, carry.outer, layers

    def evaluate(self, rank_rows: RankRow, shared_rows: SharedRow) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`(loss, sums)` of this device's tokens: the schedule's forwards alone."""
        x, loss, sums = self._shapes()
        start = (self._ring(self.schedule.input_slots, x), self._ring(0, x)[0], _zeros(loss), _zeros(sums))
        stop = max(phase.stop for phase in self.schedule.phases if phase.forward)
        rows = jax.tree.map(lambda column: column[:stop], (rank_rows, shared_rows))
        (_, _, loss, sums), _ = lax.scan(self._evaluate_tick, start, rows)
        return loss, sums

    def _shapes(self) -> tuple[Tree, Tree, Tree]:
        """Shapes and dtypes of x, of the loss and of the sums."""
        micro = self._micro(0)
        x = jax.eval_shape(self.parts.embed, self.outer, micro)
        return x, *jax.eval_shape(self.parts.head, self.outer, x, micro)

    def _ring(self, slots: int, like: Any) -> jax.Array:
        """An empty ring for arrays like this one, with a spare slot."""
        empty = self.empty if jnp.issubdtype(like.dtype, jnp.floating) else 0
        return jnp.full((slots + 1, *like.shape), empty, like.dtype)

    def _start(self) -> Carry:
        x, loss, sums = self._shapes()
        kept = jax.eval_shape(lambda: self._forward_chunk(0, 0, jnp.zeros(x.shape, x.dtype))[1])
        return Carry(
            inputs=self._ring(self.schedule.input_slots, x),
            gradients=self._ring(self.schedule.gradient_slots, x),
            kept=[self._ring(self.schedule.input_slots, leaf) for leaf in kept],
            sent=self._ring(0, x)[0],
            returned=self._ring(0, x)[0],
            loss=_zeros(loss),
            sums=_zeros(sums),
            outer=_zeros(self.outer),
            layers=_zeros(self.weights),
        )

    def _evaluate_tick(self, carry: tuple, rows: tuple[RankRow, SharedRow]) -> tuple[tuple, None]:
        (inputs, sent, loss, sums), (row, shared) = carry, rows
        inputs = _store(inputs, sent, row.forward.arrival)
        x = self._input(inputs, row.forward, shared)
        y, _ = self._forward_chunk(row.forward.chunk, row.forward.micro, x)

        def head(micro):
            return jax.tree.map(jnp.add, (loss, sums), self.parts.head(self.outer, self._leaving(y, row), micro))

        loss, sums = self._when(shared.head, head, lambda: (loss, sums))
        return (_store(inputs, x, row.forward.input), self._pass_on(y, 1), loss, sums), None

    def _tick(self, phase: Phase, carry: Carry, rows: tuple[RankRow, SharedRow]) -> tuple[Carry, None]:
        row, shared = rows
        carry = carry._replace(
            inputs=_store(carry.inputs, carry.sent, row.forward.arrival),
            gradients=_store(carry.gradients, carry.returned, row.backward.arrival),
        )
        if phase.forward:
            carry = self._forward(carry, row, shared)
        if phase.backward:
            carry = self._backward(carry, row.backward, shared)
        return carry, None

    def _forward(self, carry: Carry, row: RankRow, shared: SharedRow) -> Carry:
        run = row.forward
        x = self._input(carry.inputs, run, shared)
        y, kept = self._forward_chunk(run.chunk, run.micro, x)
        carry = carry._replace(
            inputs=_store(carry.inputs, x, run.input),
            kept=[_store(ring, leaf, run.input) for ring, leaf in zip(carry.kept, kept, strict=True)],
            sent=self._pass_on(y, 1),
        )
        return self._head(carry, y, row, shared)

    def _input(self, inputs: jax.Array, row: PassRow, shared: SharedRow) -> jax.Array:
        """What a forward starts from: what the rank before has sent, or the embedding."""
        arrived = _fetch(inputs, row.input)
        embed = lambda micro: self.parts.embed(self.outer, micro)
        return jnp.where(row.first, self._when(shared.embed, embed, lambda: jnp.zeros_like(arrived)), arrived)

    def _leaving(self, y: jax.Array, row: RankRow) -> jax.Array:
        """The last chunk's output, on all ranks."""
        return lax.psum(jnp.where(row.last, y, 0), STAGE)

    def _head(self, carry: Carry, y: jax.Array, row: RankRow, shared: SharedRow) -> Carry:
        """Loss and gradients of the micro-batch that leaves the layers; its dx is the last chunk's to keep."""

        def run(micro):
            head = lambda outer, x: self.parts.head(outer, x, micro)
            loss, back, sums = jax.vjp(head, self.outer, self._leaving(y, row), has_aux=True)
            douter, dx = back(jnp.ones_like(loss))
            add = lambda total, new: total + new.astype(jnp.float32)
            totals = jax.tree.map(add, (carry.loss, carry.sums, carry.outer), (loss, sums, douter))
            return *totals, _store(carry.gradients, dx, row.forward.gradient)

        unchanged = lambda: (carry.loss, carry.sums, carry.outer, carry.gradients)
        loss, sums, outer, gradients = self._when(shared.head, run, unchanged)
        return carry._replace(loss=loss, sums=sums, outer=outer, gradients=gradients)

    def _backward(self, carry: Carry, row: PassRow, shared: SharedRow) -> Carry:
        x, dy = _fetch(carry.inputs, row.input), _fetch(carry.gradients, row.gradient)
        kept = [_fetch(ring, row.input) for ring in carry.kept]
        dlayers, dx = self._backward_chunk(row.chunk, row.micro, x, kept, dy)

        def unembed(micro):
            entering = lax.psum(jnp.where(row.first, dx, 0), STAGE)
            _, back = jax.vjp(lambda outer: self.parts.embed(outer, micro), self.outer)
            return jax.tree.map(lambda total, new: total + new.astype(jnp.float32), carry.outer, *back(entering))

        def add(total_VC, new_C):
            new_C = jnp.where(row.runs, new_C.astype(jnp.float32), 0)
            return _store(total_VC, _fetch(total_VC, row.chunk) + new_C, row.chunk)

        carry = carry._replace(
            layers=jax.tree.map(add, carry.layers, dlayers),
            outer=self._when(shared.unembed, unembed, lambda: carry.outer),
            returned=self._pass_on(dx, -1),
        )
        if self.empty == 0:
            return carry
        used = functools.partial(_clear, empty=self.empty)
        return carry._replace(
            inputs=used(carry.inputs, row.runs, row.input), gradients=used(carry.gradients, row.runs, row.gradient)
        )

    def _forward_chunk(self, chunk: Any, micro: Any, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """A chunk's output and, with `keep`, what its backward pass needs besides weights, input and micro-batch."""
        function, places, known = self._chunk(chunk, micro)
        if not self.keep:
            return function(places, x), []
        y, back = jax.vjp(function, places, x)
        leaves = jax.tree.leaves(back)
        return y, [leaves[number] for number in _new_leaves(leaves, [*known, x])]

    def _backward_chunk(self, chunk, micro, x, kept, dy) -> tuple[Tree, jax.Array]:
        """Gradients of a chunk's layers [C, ...] and of its input."""
        function, places, known = self._chunk(chunk, micro)
        _, back = jax.vjp(function, places, x)
        if self.keep:  # of this forward pass only the form is used: the compiler drops the rest
            leaves, form = jax.tree.flatten(back)
            for number, leaf in zip(_new_leaves(leaves, [*known, x]), kept, strict=True):
                leaves[number] = leaf
            back = jax.tree.unflatten(form, leaves)
        dlayers, dx = back(dy)
        return (jax.tree.map(lambda *layers: jnp.stack(layers), *dlayers) if self.keep else dlayers), dx

    def _chunk(self, chunk: Any, micro: Any) -> tuple[Callable[[Tree, jax.Array], jax.Array], Tree, list[Any]]:
        """`(function, places, known)`: `function(places, x) -> y`, and the arrays that both passes can make again.

        Where the forward pass keeps values, layers are written out and their weights cut out before: weights that were
        cut inside would be kept with every micro-batch.
        """
        weights_C, real_C = _fetch_tree(self.weights, chunk), _fetch(self.real, chunk)
        shared = self.parts.shared(self._micro(micro))

        def one(x, places, weights, real):
            return jnp.where(real, self.parts.layer(places, weights, x, shared), x)

        if not self.keep:
            scan_one = lambda x, layer: (one(x, *layer), None)
            return lambda places, x: lax.scan(scan_one, x, (places, weights_C, real_C))[0], _zeros(weights_C), []
        weights = [_fetch_tree(weights_C, number) for number in range(self.real.shape[1])]
        places = [_zeros(layer) for layer in weights]

        def written_out(places, x):
            for number, layer in enumerate(zip(places, weights, strict=True)):
                x = one(x, *layer, real_C[number])
            return x

        return written_out, places, jax.tree.leaves((places, weights, shared))

    def _micro(self, number: Any) -> Tree:
        return _fetch_tree(self.batch, number)

    def _when(self, number: Any, function: Callable[[Tree], Tree], otherwise: Callable[[], Tree]) -> Tree:
        """`function(micro-batch)` in ticks that have one. The condition is the same on all devices."""
        return lax.cond(number != IDLE, lambda: function(self._micro(jnp.maximum(number, 0))), otherwise)

    def _pass_on(self, x: jax.Array, step: int) -> jax.Array:
        ranks = self.schedule.ranks
        return lax.ppermute(x, STAGE, [(rank, (rank + step) % ranks) for rank in range(ranks)])


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), tree)


def _new_leaves(leaves: list[Any], known: list[Any]) -> list[int]:
    """Places of the leaves that are none of the `known` arrays."""
    known_ids = {id(array) for array in known}
    return [place for place, leaf in enumerate(leaves) if id(leaf) not in known_ids]


def _fetch(ring: jax.Array, slot: Any) -> jax.Array:
    return lax.dynamic_index_in_dim(ring, slot, 0, keepdims=False)


def _fetch_tree(tree: Tree, number: Any) -> Tree:
    return jax.tree.map(lambda array: _fetch(array, number), tree)


def _store(ring: jax.Array, x: jax.Array, slot: Any) -> jax.Array:
    return lax.dynamic_update_index_in_dim(ring, x.astype(ring.dtype), slot, 0)


def _clear(ring: jax.Array, when: Any, slot: Any, empty: float) -> jax.Array:
    return _store(ring, jnp.where(when, empty, _fetch(ring, slot)), slot)

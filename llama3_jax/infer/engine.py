"""The compiled side of generation: steps over slots and pages, and no policy at all.

An engine drives a model (`WholeModel`, or `StagedModel` in a pipeline) and keeps, for each slot, how its row's tokens
are drawn and which was drawn last. Whoever drives it says which slots compute how many tokens from where. A step gives
a `Ticket` at once, so the next one can be handed in before its tokens are known.

A batch is two programs or three: the model, the draw, and the scores of a prompt where they are asked for. Rows and
lengths are rounded up and the model's program knows nothing of how tokens are drawn, so a server compiles some tens of
programs in all.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.infer.packing import COUNT, DRAW, HEAD, NEXT, NO_DRAW, SLOT, SlotWork, pack
from llama3_jax.infer.request import SamplingConfig
from llama3_jax.infer.sampling import Needs, Settings, is_penalised, penalised, sample, scores, settings_of
from llama3_jax.infer.staged import StagedModel
from llama3_jax.infer.whole import WholeModel, power_of_two, put_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """What is drawn with, and what was drawn. X: slots, and one more that padding goes to."""

    settings: Settings  # [X]
    token_X: jax.Array
    seen_XV: jax.Array | None = None  # tokens in prompt or answer; made for the first row that asks for penalties
    count_XV: jax.Array | None = None  # how often in the answer


@dataclasses.dataclass(frozen=True)
class Admission:
    """A row for a slot that was free."""

    slot: int
    pages: Sequence[int]
    sampling: SamplingConfig
    prompt: Sequence[int]  # read only for penalties


@dataclasses.dataclass(frozen=True)
class Batch:
    """Works of one step that are computed together, none of more than `piece` tokens; 1: each decodes one token."""

    works: Sequence[SlotWork]
    piece: int
    needs: Needs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """Log-probabilities of tokens, and the likeliest tokens with theirs, best first (X of them)."""

    logprob: jax.Array  # [B], or [B, S] for a piece of a prompt: of the token after each one
    top_token: jax.Array  # [..., X]
    top_logprob: jax.Array  # [..., X]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchResult:
    """What a batch gives; row i is of `works[i]`, and padding follows."""

    token_B: jax.Array
    scores: Scores | None  # of the tokens, if a row asked for them
    prompt_scores: Scores | None


@dataclasses.dataclass(eq=False)
class Ticket:
    """A step that was handed in."""

    _engine: "Engine"
    _results: list[BatchResult | None]

    def results(self) -> list[BatchResult]:
        """Of the step's batches, on the host; waits for them, and has the engine go on until they come out."""
        while any(result is None for result in self._results):
            self._engine.step(())
        return jax.device_get(self._results)


@dataclasses.dataclass(frozen=True)
class _Flight:
    """A batch that has entered the model and not come out."""

    packed_BX: np.ndarray
    needs: Needs
    ticket: Ticket | None  # None: nothing but padding
    number: int  # of the batch in its step


class Engine:
    """A model with room for `config.num_slots` rows in `config.num_pages` pages."""

    def __init__(self, model: WholeModel | StagedModel):
        """Raises ValueError for a model whose positions end before the `max_length` it is to have room for."""
        self.config, self.model_config, self._model, self._mesh = model.config, model.model_config, model, model.mesh
        if self.config.max_length > self.model_config.max_length:
            raise ValueError(f"max_length {self.config.max_length} exceeds the model's {self.model_config.max_length}")
        self._lines: dict[tuple[int, int], collections.deque[_Flight]] = {}  # by shape, what has not come out
        with jax.set_mesh(self._mesh):
            rows = self.config.num_slots + 1
            settings = jax.tree.map(jnp.asarray, settings_of([SamplingConfig()] * rows))
            self._slots = Slots(settings, jnp.zeros(rows, jnp.int32))

    @property
    def delay(self) -> int:
        """Steps after which the results of a step come out."""
        return self._model.delay

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Fills slots. To be called before the first step of the rows."""
        if not admissions:
            return
        self._let_out(lambda row: row[SLOT] in {admission.slot for admission in admissions})
        padded, config = power_of_two(len(admissions)), self.config
        table_CW = np.zeros((padded, config.table_width), np.int32)
        slot_C = np.full(padded, config.num_slots, np.int32)
        for number, admission in enumerate(admissions):
            table_CW[number, : len(admission.pages)] = admission.pages
            slot_C[number] = admission.slot
        samplings = [admission.sampling for admission in admissions]
        samplings += [SamplingConfig()] * (padded - len(admissions))
        with jax.set_mesh(self._mesh):
            self._model.admit(slot_C, table_CW)
            settings = jax.tree.map(
                lambda old, new: put_rows(old, slot_C, new), self._slots.settings, settings_of(samplings)
            )
        self._slots = dataclasses.replace(self._slots, settings=settings)
        for admission in admissions:
            if is_penalised(admission.sampling):
                self._count_prompt(admission)

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies pages, (from, to), in all layers."""
        if not pairs:
            return
        self._let_out(lambda row: row[COUNT] > 0)
        padded = np.full((power_of_two(len(pairs)), 2), self.config.num_pages, np.int32)
        padded[: len(pairs)] = pairs
        with jax.set_mesh(self._mesh):
            self._model.copy(padded[:, 0] % self.config.num_pages, padded[:, 1])

    def step(self, batches: Sequence[Batch]) -> Ticket:
        """Computes batches, one after another. A slot may wait for its own draw and is in at most one of them."""
        drawing = {work.slot for batch in batches for work in batch.works if work.tokens is None}
        self._let_out(lambda row: row[SLOT] in drawing and row[DRAW] != NO_DRAW)
        ticket, shapes = Ticket(self, [None] * len(batches)), set()
        for number, batch in enumerate(batches):
            num_rows = self._model.rows_for(len(batch.works), batch.piece)
            shapes.add((num_rows, batch.piece))
            packed_BX = pack(batch.works, num_rows, batch.piece, self.config.num_slots)
            self._enter(_Flight(packed_BX, batch.needs, ticket, number))
        for num_rows, piece in [shape for shape, line in self._lines.items() if line and shape not in shapes]:
            if any(flight.ticket for flight in self._lines[num_rows, piece]):
                empty_BX = pack((), num_rows, piece, self.config.num_slots)
                self._enter(_Flight(empty_BX, Needs(), None, 0))
        return ticket

    def _enter(self, flight: _Flight) -> None:
        """A batch enters the model, and the one that comes out of it has its tokens drawn."""
        shape = flight.packed_BX.shape[0], flight.packed_BX.shape[1] - HEAD
        line = self._lines.setdefault(shape, collections.deque())
        line.append(flight)
        comes_out = len(line) > self._model.delay
        keep_hidden = comes_out and line[0].needs.prompt_scores
        with jax.set_mesh(self._mesh):
            logits_BV, x_BSD = self._model.forward(self._slots.token_X, flight.packed_BX, keep_hidden)
            if comes_out:
                self._come_out(line.popleft(), logits_BV, x_BSD)

    def _come_out(self, flight: _Flight, logits_BV: jax.Array, x_BSD: jax.Array | None) -> None:
        if flight.ticket is None:
            return
        prompt = None
        if x_BSD is not None:
            prompt = _prompt_scores(self._model.logits_of(x_BSD), flight.packed_BX, flight.needs.top)
        packed_BX = flight.packed_BX[:, :HEAD]
        token_B, scored, self._slots = _draw(self._slots, logits_BV, packed_BX, flight.needs)
        flight.ticket._results[flight.number] = BatchResult(token_B, scored, prompt)

    def _let_out(self, wanted: Any) -> None:
        """Goes on, without new work, until no row under way is `wanted`."""
        under_way = lambda: [row for line in self._lines.values() for flight in line for row in flight.packed_BX]
        while any(row[COUNT] and wanted(row) for row in under_way()):
            self.step(())

    def _count_prompt(self, admission: Admission) -> None:
        """Lets a row's penalties see its prompt."""
        vocab = self.model_config.vocab_size
        tokens_T = np.full(power_of_two(len(admission.prompt), 64), vocab, np.int32)  # outside: dropped
        tokens_T[: len(admission.prompt)] = admission.prompt
        with jax.set_mesh(self._mesh):
            if self._slots.seen_XV is None:
                shape = (self.config.num_slots + 1, vocab)
                tables = {"seen_XV": jnp.zeros(shape, bool), "count_XV": jnp.zeros(shape, jnp.int32)}
                self._slots = dataclasses.replace(self._slots, **tables)
            self._slots = _with_prompt(self._slots, np.int32(admission.slot), tokens_T)


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _draw(
    slots: Slots, logits_BV: jax.Array, packed_BX: jax.Array, needs: Needs
) -> tuple[jax.Array, Scores | None, Slots]:
    """A token for each row, remembered in the slots of those whose turn it is."""
    slot_B, draw_B = packed_BX[:, SLOT], packed_BX[:, DRAW]
    settings = jax.tree.map(lambda array: array[slot_B], slots.settings)
    chosen_BV = logits_BV
    if needs.penalised:
        assert slots.seen_XV is not None and slots.count_XV is not None
        chosen_BV = penalised(logits_BV, slots.seen_XV[slot_B], slots.count_XV[slot_B], settings)
    token_B = sample(chosen_BV, settings, draw_B, needs)
    target_B = jnp.where(draw_B == NO_DRAW, slots.token_X.shape[0] - 1, slot_B)  # else to the slot of padding
    new = {"token_X": slots.token_X.at[target_B].set(token_B)}
    if needs.penalised:
        assert slots.seen_XV is not None and slots.count_XV is not None
        new["seen_XV"] = slots.seen_XV.at[target_B, token_B].set(True)
        new["count_XV"] = slots.count_XV.at[target_B, token_B].add(1)
    scored = Scores(*scores(logits_BV, token_B, needs.top)) if needs.scores else None
    return token_B, scored, dataclasses.replace(slots, **new)


@functools.partial(jax.jit, static_argnums=2)
def _prompt_scores(logits_BSV: jax.Array, packed_BX: jax.Array, top: int) -> Scores:
    """Scores of the token after each one of a piece of prompt; what follows its last one is in column NEXT."""
    tokens_BS, count_B = packed_BX[:, HEAD:], packed_BX[:, COUNT]
    batch, length = tokens_BS.shape
    last_BS = jnp.arange(length)[None] == count_B[:, None] - 1
    following_BS = jnp.where(last_BS, packed_BX[:, NEXT, None], jnp.roll(tokens_BS, -1, axis=1))
    found = scores(logits_BSV.reshape(batch * length, -1), following_BS.reshape(-1), top)
    return Scores(*(array.reshape(batch, length, *array.shape[1:]) for array in found))


@functools.partial(jax.jit, donate_argnums=0)
def _with_prompt(slots: Slots, slot: jax.typing.ArrayLike, tokens_T: jax.typing.ArrayLike) -> Slots:
    """The slots with a row's prompt counted; tokens outside the vocabulary are padding."""
    assert slots.seen_XV is not None and slots.count_XV is not None
    seen_V = jnp.zeros(slots.seen_XV.shape[1], bool).at[tokens_T].set(True, mode="drop")
    counts = {"seen_XV": slots.seen_XV.at[slot].set(seen_V), "count_XV": slots.count_XV.at[slot].set(0)}
    return dataclasses.replace(slots, **counts)

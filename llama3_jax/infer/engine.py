"""The compiled side of generation: steps over slots and pages, and no policy at all.

An engine holds a model and, on the device, the pages of every layer and for each slot the row's pages, its settings and
the token drawn last. Whoever drives it says which slots compute how many tokens from where. A step returns at once with
arrays that are still being computed, so the next one can be handed in before its tokens are known.

A step is two programs or three: the model, the draw, and the scores of a prompt where they are asked for. Rows and
lengths are rounded up to powers of two and the model's program knows nothing of how tokens are drawn, so a server
compiles some tens of programs in all.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from llama3_jax.core.params import Params
from llama3_jax.core.sharding import MESH_AXES
from llama3_jax.infer.request import SamplingConfig
from llama3_jax.infer.sampling import Needs, Settings, penalised, sample, scores, settings_of
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.model.cache import copy_pages, init_pages
from llama3_jax.model.llama import Llama
from llama3_jax.ops.paged_attention import PagedRows, default_implementation

NO_DRAW = -1  # in the place of a draw's number
DRAWN_LAST = -1  # in the place of a token: the one that the slot drew last


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values, and whose they are. X: slots, and one more that padding goes to."""

    pages: list[jax.Array]  # [P, A, J, E] for each layer
    table_XW: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """What is drawn with, and what was drawn."""

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
class SlotWork:
    """What a slot does in a step. `tokens`: a piece of prompt, or None for the token drawn last."""

    slot: int
    start: int
    tokens: Sequence[int] | None
    draw: int | None  # number of the token drawn after the last of these, or None
    next_token: int | None = None  # what follows a piece of prompt that is scored; None at the prompt's end


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """Log-probabilities of tokens, and the likeliest tokens with theirs, best first (X of them)."""

    logprob: jax.Array  # [B], or [B, S] for a piece of a prompt: of the token after each one
    top_token: jax.Array  # [..., X]
    top_logprob: jax.Array  # [..., X]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepResult:
    """What a step gives for its rows, padding included."""

    token_B: jax.Array
    scores: Scores | None  # of the tokens, if a row asked for them
    prompt_scores: Scores | None


class Engine:
    """One model on one mesh, with room for `config.num_slots` rows in `config.num_pages` pages."""

    def __init__(self, module: Llama, params: Params, mesh: Mesh, config: SchedulerConfig, attention: str = "auto"):
        """`module` declares layers apart (model/llama.py), `params` are its arrays. `attention`: of paged_attention.

        Raises ValueError for a model whose positions end before `config.max_length`, and for a mesh or layout with
        more than a tensor axis: several engines beside each other serve several batches.
        """
        layout = module.layout
        if layout.num_devices(MESH_AXES) != layout.size("tensor") or layout.sequence_parallel_axes:
            raise ValueError(
                f"an engine splits a model over the tensor axis alone, without sequence_parallel: {layout}"
            )
        if config.max_length > module.config.max_length:
            raise ValueError(f"max_length {config.max_length} exceeds the model's {module.config.max_length}")
        self.model_config, self.config, self.mesh, self.params = module.config, config, mesh, params
        platform = mesh.devices.flat[0].platform
        attention = default_implementation(platform) if attention == "auto" else attention
        self._cache, self._slots = self._init_cache(module), self._init_slots()
        self._programs = _programs(nnx.split(module, graph=False)[0], attention)

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Fills slots. To be called before the first step of the rows."""
        if not admissions:
            return
        padded, config = _power_of_two(len(admissions)), self.config
        table_CW = np.zeros((padded, config.table_width), np.int32)
        slot_C = np.full(padded, config.num_slots, np.int32)
        for number, admission in enumerate(admissions):
            table_CW[number, : len(admission.pages)] = admission.pages
            slot_C[number] = admission.slot
        samplings = [admission.sampling for admission in admissions]
        samplings += [SamplingConfig()] * (padded - len(admissions))
        with jax.set_mesh(self.mesh):
            settings = settings_of(samplings)
            self._cache, self._slots = self._programs.admit(self._cache, self._slots, slot_C, table_CW, settings)

    def count_prompt(self, admission: Admission) -> None:
        """Lets a row's penalties see its prompt. To be called after `admit`, for rows that have penalties."""
        vocab = self.model_config.vocab_size
        tokens_T = np.full(_power_of_two(len(admission.prompt), 64), vocab, np.int32)  # outside: dropped
        tokens_T[: len(admission.prompt)] = admission.prompt
        with jax.set_mesh(self.mesh):
            if self._slots.seen_XV is None:
                shape = (self.config.num_slots + 1, vocab)
                tables = {"seen_XV": jnp.zeros(shape, bool), "count_XV": jnp.zeros(shape, jnp.int32)}
                self._slots = dataclasses.replace(self._slots, **tables)
            self._slots = self._programs.count(self._slots, np.int32(admission.slot), tokens_T)

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies pages, (from, to), in all layers."""
        if not pairs:
            return
        padded = np.full((_power_of_two(len(pairs)), 2), self.config.num_pages, np.int32)
        padded[: len(pairs)] = pairs
        with jax.set_mesh(self.mesh):
            self._cache = self._programs.copy(self._cache, padded[:, 0] % self.config.num_pages, padded[:, 1])

    def step(self, works: Sequence[SlotWork], piece: int, needs: Needs) -> StepResult:
        """Computes `works`, none of more than `piece` tokens. Row i of the result is `works[i]`."""
        packed_BX = np.zeros((_power_of_two(len(works)), PACKED + piece), np.int32)
        packed_BX[:, SLOT], packed_BX[:, DRAW] = self.config.num_slots, NO_DRAW
        for number, work in enumerate(works):
            tokens = (DRAWN_LAST,) if work.tokens is None else work.tokens
            draw = NO_DRAW if work.draw is None else work.draw
            following = 0 if work.next_token is None else work.next_token
            packed_BX[number, :PACKED] = work.slot, work.start, len(tokens), draw, following
            packed_BX[number, PACKED : PACKED + len(tokens)] = tokens
        with jax.set_mesh(self.mesh):
            token_X = self._slots.token_X
            logits_BV, x_BSD, self._cache = self._programs.forward(
                self.params, self._cache, token_X, packed_BX, needs.prompt_scores
            )
            prompt = None
            if needs.prompt_scores:
                prompt = self._programs.score(self.params, x_BSD, packed_BX, needs.top)
            token_B, scored, self._slots = self._programs.draw(self._slots, logits_BV, packed_BX[:, :PACKED], needs)
        return StepResult(token_B, scored, prompt)

    def _init_cache(self, module: Llama) -> Cache:
        c, sizes = module.config, self.config
        shape = (c.num_layers, sizes.num_pages, sizes.page_size, c.num_kv_heads, c.head_dim)
        with jax.set_mesh(self.mesh):
            pages = jax.jit(lambda: init_pages(*shape, module.compute.compute_dtype, module.layout))()
            return Cache(pages, jnp.zeros((sizes.num_slots + 1, sizes.table_width), jnp.int32))

    def _init_slots(self) -> Slots:
        rows = self.config.num_slots + 1
        with jax.set_mesh(self.mesh):
            settings = jax.tree.map(jnp.asarray, settings_of([SamplingConfig()] * rows))
            return Slots(settings, jnp.zeros(rows, jnp.int32))


@dataclasses.dataclass(frozen=True)
class _Programs:
    """The compiled functions of a model, shared by all its engines."""

    forward: Callable
    draw: Callable
    score: Callable
    admit: Callable
    count: Callable
    copy: Callable


@functools.cache
def _programs(graphdef: Any, attention: str) -> _Programs:
    return _Programs(
        forward=jax.jit(functools.partial(_forward, graphdef, attention), static_argnums=4, donate_argnums=1),
        draw=jax.jit(_draw, static_argnums=3, donate_argnums=0),
        score=jax.jit(functools.partial(_prompt_scores, graphdef), static_argnums=3),
        admit=jax.jit(_admit, donate_argnums=(0, 1)),
        count=jax.jit(_count_prompt, donate_argnums=0),
        copy=jax.jit(_copy, donate_argnums=0),
    )


SLOT, START, COUNT, DRAW, NEXT = range(5)  # columns of a step's packed rows; the tokens follow
PACKED = 5


def _forward(
    graphdef: Any,
    attention: str,
    params: Params,
    cache: Cache,
    token_X: jax.Array,
    packed_BX: jax.Array,
    keep_hidden: bool,
) -> tuple[jax.Array, jax.Array | None, Cache]:
    """Logits after each row's last token `[B, V]`, final hidden states `[B, S, D]` if asked for, and the cache."""
    model: Llama = nnx.merge(graphdef, params)
    slot_B, count_B, tokens_BS = packed_BX[:, SLOT], packed_BX[:, COUNT], packed_BX[:, PACKED:]
    tokens_BS = jnp.where(tokens_BS == DRAWN_LAST, token_X[slot_B][:, None], tokens_BS)
    rows = PagedRows(cache.table_XW[slot_B], packed_BX[:, START], count_B)
    x_BSD, pages = model.hidden_paged(tokens_BS, rows, cache.pages, attention)
    last_B11 = jnp.maximum(count_B - 1, 0)[:, None, None]
    logits_BV = _whole_logits(model, jnp.take_along_axis(x_BSD, last_B11, axis=1))[:, 0]
    return logits_BV, x_BSD if keep_hidden else None, dataclasses.replace(cache, pages=pages)


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


def _prompt_scores(graphdef: Any, params: Params, x_BSD: jax.Array, packed_BX: jax.Array, top: int) -> Scores:
    """Scores of the token after each one of a piece of prompt; what follows its last one is in column NEXT."""
    tokens_BS, count_B = packed_BX[:, PACKED:], packed_BX[:, COUNT]
    batch, length = tokens_BS.shape
    last_BS = jnp.arange(length)[None] == count_B[:, None] - 1
    following_BS = jnp.where(last_BS, packed_BX[:, NEXT, None], jnp.roll(tokens_BS, -1, axis=1))
    logits_BSV = _whole_logits(nnx.merge(graphdef, params), x_BSD)
    found = scores(logits_BSV.reshape(batch * length, -1), following_BS.reshape(-1), top)
    return Scores(*(array.reshape(batch, length, *array.shape[1:]) for array in found))


def _whole_logits(model: Llama, x_BSD: jax.Array) -> jax.Array:
    """Logits `[B, S, V]` with the whole vocabulary on every device."""
    return model.layout.place(model.logits(x_BSD), "BSM")


def _admit(
    cache: Cache, slots: Slots, slot_C: jax.Array, table_CW: jax.Array, settings: Settings
) -> tuple[Cache, Slots]:
    put = lambda old, new: old.at[slot_C].set(new)
    cache = dataclasses.replace(cache, table_XW=put(cache.table_XW, table_CW))
    return cache, dataclasses.replace(slots, settings=jax.tree.map(put, slots.settings, settings))


def _count_prompt(slots: Slots, slot: jax.Array, tokens_T: jax.Array) -> Slots:
    assert slots.seen_XV is not None and slots.count_XV is not None
    seen_V = jnp.zeros(slots.seen_XV.shape[1], bool).at[tokens_T].set(True, mode="drop")
    counts = {"seen_XV": slots.seen_XV.at[slot].set(seen_V), "count_XV": slots.count_XV.at[slot].set(0)}
    return dataclasses.replace(slots, **counts)


def _copy(cache: Cache, source_C: jax.Array, target_C: jax.Array) -> Cache:
    return dataclasses.replace(cache, pages=copy_pages(cache.pages, source_C, target_C))


def _power_of_two(count: int, least: int = 1) -> int:
    """The smallest `least` times a power of two that is not below `count`."""
    while least < count:
        least *= 2
    return least

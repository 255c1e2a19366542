"""The compiled side of generation: steps over slots and pages, and no policy at all.

An engine holds a model and a state on the device: the pages of every layer, and for each slot the row's pages, its
settings and the token drawn last. Whoever drives it says which slots compute how many tokens from where. A step returns
at once with arrays that are still being computed, so the next one can be handed in before its tokens are known.

Rows and lengths are rounded up to powers of two, so a server compiles some tens of programs in all.
"""

import dataclasses
import functools
from collections.abc import Sequence
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
@dataclasses.dataclass
class State:
    """What lives on the device between steps. X: slots, and one more that padding goes to."""

    pages: list[jax.Array]  # [P, A, J, E] for each layer
    table_XW: jax.Array
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
class StepResult:
    """What a step gives for its rows, padding included. Arrays that were not asked for are empty."""

    token_B: jax.Array
    logprob_B: jax.Array
    top_token_BX: jax.Array
    top_logprob_BX: jax.Array
    prompt_logprob_BS: jax.Array  # of the token after each one of the piece
    prompt_top_token_BSX: jax.Array
    prompt_top_logprob_BSX: jax.Array


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
        self._attention = default_implementation(platform) if attention == "auto" else attention
        self._graphdef = nnx.split(module, graph=False)[0]
        self._state = self._init_state(module)
        self._step = jax.jit(
            functools.partial(_step, self._graphdef, self._attention), static_argnums=3, donate_argnums=1
        )
        self._admit = jax.jit(_admit, donate_argnums=0)
        self._count = jax.jit(_count_prompt, donate_argnums=0)
        self._copy = jax.jit(_copy, donate_argnums=0)

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
            self._state = self._admit(self._state, slot_C, table_CW, settings_of(samplings))

    def count_prompt(self, admission: Admission) -> None:
        """Lets a row's penalties see its prompt. To be called after `admit`, for rows that have penalties."""
        with jax.set_mesh(self.mesh):
            if self._state.seen_XV is None:
                shape = (self.config.num_slots + 1, self.model_config.vocab_size)
                self._state.seen_XV, self._state.count_XV = jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32)
            tokens_T = np.full(_power_of_two(len(admission.prompt), 64), self.model_config.vocab_size, np.int32)
            tokens_T[: len(admission.prompt)] = admission.prompt
            self._state = self._count(self._state, np.int32(admission.slot), tokens_T)

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies pages, (from, to), in all layers."""
        if not pairs:
            return
        padded = np.full((_power_of_two(len(pairs)), 2), self.config.num_pages, np.int32)
        padded[: len(pairs)] = pairs
        with jax.set_mesh(self.mesh):
            self._state = self._copy(self._state, padded[:, 0] % self.config.num_pages, padded[:, 1])

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
            result, self._state = self._step(self.params, self._state, packed_BX, needs)
        return result

    def _init_state(self, module: Llama) -> State:
        c, sizes = module.config, self.config
        rows = sizes.num_slots + 1
        with jax.set_mesh(self.mesh):
            pages = jax.jit(
                lambda: init_pages(
                    c.num_layers,
                    sizes.num_pages,
                    sizes.page_size,
                    c.num_kv_heads,
                    c.head_dim,
                    module.compute.compute_dtype,
                    module.layout,
                )
            )()
            table_XW = jnp.zeros((rows, sizes.table_width), jnp.int32)
            settings = jax.tree.map(jnp.asarray, settings_of([SamplingConfig()] * rows))
            return State(pages, table_XW, settings, jnp.zeros(rows, jnp.int32))


SLOT, START, COUNT, DRAW, NEXT = range(5)  # columns of a step's packed rows; the tokens follow
PACKED = 5


def _step(graphdef: Any, attention: str, params: Params, state: State, packed_BX: jax.Array, needs: Needs):
    model: Llama = nnx.merge(graphdef, params)
    slot_B, count_B, draw_B = packed_BX[:, SLOT], packed_BX[:, COUNT], packed_BX[:, DRAW]
    tokens_BS = packed_BX[:, PACKED:]
    tokens_BS = jnp.where(tokens_BS == DRAWN_LAST, state.token_X[slot_B][:, None], tokens_BS)
    rows = PagedRows(state.table_XW[slot_B], packed_BX[:, START], count_B)
    x_BSD, pages = model.hidden_paged(tokens_BS, rows, state.pages, attention)
    last_B11 = jnp.maximum(count_B - 1, 0)[:, None, None]
    logits_BV = _whole(model, jnp.take_along_axis(x_BSD, last_B11, axis=1))[:, 0]
    settings = jax.tree.map(lambda array: array[slot_B], state.settings)
    chosen_BV = logits_BV
    if needs.penalised:
        assert state.seen_XV is not None and state.count_XV is not None
        chosen_BV = penalised(logits_BV, state.seen_XV[slot_B], state.count_XV[slot_B], settings)
    token_B = sample(chosen_BV, settings, draw_B, needs)
    state = _remember(dataclasses.replace(state, pages=pages), slot_B, draw_B, token_B, needs)
    empty = jnp.zeros((len(token_B), 0))
    scored = scores(logits_BV, token_B, needs.top) if needs.scores else (empty, empty, empty)
    prompt = (empty, empty, empty)
    if needs.prompt_scores:
        prompt = _prompt_scores(model, x_BSD, tokens_BS, packed_BX[:, NEXT], count_B, needs.top)
    return StepResult(token_B, *scored, *prompt), state


def _whole(model: Llama, x_BSD: jax.Array) -> jax.Array:
    """Logits with the whole vocabulary on every device."""
    return model.layout.place(model.logits(x_BSD), "BSM")


def _remember(state: State, slot_B: jax.Array, draw_B: jax.Array, token_B: jax.Array, needs: Needs) -> State:
    """The state with the tokens drawn; rows that draw none write to the slot of padding."""
    padding = state.token_X.shape[0] - 1
    target_B = jnp.where(draw_B == NO_DRAW, padding, slot_B)
    state = dataclasses.replace(state, token_X=state.token_X.at[target_B].set(token_B))
    if not needs.penalised or state.seen_XV is None or state.count_XV is None:
        return state
    seen_XV = state.seen_XV.at[target_B, token_B].set(True)
    return dataclasses.replace(state, seen_XV=seen_XV, count_XV=state.count_XV.at[target_B, token_B].add(1))


def _prompt_scores(model: Llama, x_BSD, tokens_BS, next_B, count_B, top: int):
    batch, length = tokens_BS.shape
    following_BS = jnp.concatenate([tokens_BS[:, 1:], next_B[:, None]], axis=1)
    last_BS = jnp.arange(length)[None] == count_B[:, None] - 1
    following_BS = jnp.where(last_BS, next_B[:, None], following_BS)
    logits_XV = _whole(model, x_BSD).reshape(batch * length, -1)
    found = scores(logits_XV, following_BS.reshape(-1), top)
    return tuple(array.reshape(batch, length, *array.shape[1:]) for array in found)


def _admit(state: State, slot_C: jax.Array, table_CW: jax.Array, settings: Settings) -> State:
    put = lambda old, new: old.at[slot_C].set(new)
    return dataclasses.replace(
        state, table_XW=put(state.table_XW, table_CW), settings=jax.tree.map(put, state.settings, settings)
    )


def _count_prompt(state: State, slot: jax.Array, tokens_T: jax.Array) -> State:
    assert state.seen_XV is not None and state.count_XV is not None
    seen_V = jnp.zeros(state.seen_XV.shape[1], bool).at[tokens_T].set(True, mode="drop")
    return dataclasses.replace(
        state, seen_XV=state.seen_XV.at[slot].set(seen_V), count_XV=state.count_XV.at[slot].set(0)
    )


def _copy(state: State, source_C: jax.Array, target_C: jax.Array) -> State:
    return dataclasses.replace(state, pages=copy_pages(state.pages, source_C, target_C))


def _power_of_two(count: int, least: int = 1) -> int:
    """The smallest `least` times a power of two that is not below `count`."""
    while least < count:
        least *= 2
    return least

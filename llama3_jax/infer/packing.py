"""What slots do in a step, as one array of integers: a step then sends one small thing to the device."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.ops.paged_attention import PagedRows

SLOT, START, COUNT, DRAW, NEXT = range(5)  # columns of a packed row; the tokens follow
HEAD = 5
NO_DRAW = -1  # in the place of a draw's number
DRAWN_LAST = -1  # in the place of a token: the one that the slot drew last


@dataclasses.dataclass(frozen=True)
class SlotWork:
    """What a slot does in a step. `tokens`: a piece of prompt, or None for the token drawn last."""

    slot: int
    start: int
    tokens: Sequence[int] | None
    draw: int | None  # number of the token drawn after the last of these, or None
    next_token: int | None = None  # what follows a piece of prompt that is scored; None at the prompt's end


def pack(works: Sequence[SlotWork], num_rows: int, piece: int, padding_slot: int) -> np.ndarray:
    """Works as int32 `[num_rows, HEAD + piece]`; rows without work compute nothing."""
    packed_BX = np.zeros((num_rows, HEAD + piece), np.int32)
    packed_BX[:, SLOT], packed_BX[:, DRAW] = padding_slot, NO_DRAW
    for number, work in enumerate(works):
        tokens = (DRAWN_LAST,) if work.tokens is None else work.tokens
        draw = NO_DRAW if work.draw is None else work.draw
        following = 0 if work.next_token is None else work.next_token
        packed_BX[number, :HEAD] = work.slot, work.start, len(tokens), draw, following
        packed_BX[number, HEAD : HEAD + len(tokens)] = tokens
    return packed_BX


def tokens_of(packed_BX: jax.Array, token_X: jax.Array) -> jax.Array:
    """Tokens `[B, S]`, those drawn last put in from the slots' `token_X`."""
    tokens_BS = packed_BX[:, HEAD:]
    return jnp.where(tokens_BS == DRAWN_LAST, token_X[packed_BX[:, SLOT]][:, None], tokens_BS)


def rows_of(packed_BX: jax.Array, table_XW: jax.Array) -> PagedRows:
    """Where the rows' tokens lie, by the slots' pages."""
    return PagedRows(table_XW[packed_BX[:, SLOT]], packed_BX[:, START], packed_BX[:, COUNT])


def last_of(x_BSD: jax.Array, packed_BX: jax.Array) -> jax.Array:
    """The states of each row's last token, `[B, 1, D]`."""
    last_B11 = jnp.maximum(packed_BX[:, COUNT] - 1, 0)[:, None, None]
    return jnp.take_along_axis(x_BSD, last_B11, axis=1)

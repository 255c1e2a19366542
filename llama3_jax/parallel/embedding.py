"""The token embedding, looked up where its table is stored.

The table stays split over vocabulary (tensor) and width (fsdp). Every device looks up its part of the width for all
tokens of its fsdp group, and an all-to-all of activations completes the rows: far less to send than the table, which a
gather of the weights would move in every micro-batch, and the gradient is added up in float32 where it is stored.
"""

import functools

import jax
import jax.numpy as jnp

from llama3_jax.core.sharding import Layout
from llama3_jax.parallel.manual import manual
from llama3_jax.parallel.moves import add_parts, gather_parts


def embed(table_VD: jax.Array, tokens_BS: jax.Array, dtype: str, layout: Layout = Layout()) -> jax.Array:
    """Rows of the table for int32 tokens: the residual stream `[B, R, D]` in `dtype`. Ids outside are clipped."""
    return _embed(table_VD, tokens_BS, dtype, layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _embed(table_VD, tokens_BS, dtype, layout):
    return _forward(table_VD, tokens_BS, dtype, layout)[0]


def _forward(table_VD, tokens_BS, dtype, layout):
    def local(table_VD, tokens_BS):
        row_BS, mine_BS = _local_rows(tokens_BS, table_VD.shape[0], layout)
        cast_VD = table_VD.astype(dtype)  # before the lookup: the rows are many times the table
        x_BSD = jnp.where(mine_BS[:, :, None], cast_VD[row_BS], 0)
        x_BSD = add_parts(layout, x_BSD, layout.split_axes("V"), "BRD")
        if layout.size("fsdp") > 1:
            x_BSD = jax.lax.all_to_all(x_BSD, "fsdp", split_axis=0, concat_axis=2, tiled=True)
        return x_BSD

    specs = (layout.stored("VD"), layout.used("BS")), layout.used("BRD")
    return manual(local, layout, *specs)(table_VD, tokens_BS), (table_VD, tokens_BS)


def _backward(dtype, layout, residuals, dx_BRD):
    del dtype
    table_VD, tokens_BS = residuals

    def local(dx_BSD, tokens_BS):
        if layout.size("fsdp") > 1:
            dx_BSD = jax.lax.all_to_all(dx_BSD, "fsdp", split_axis=2, concat_axis=0, tiled=True)
        dx_BSD = gather_parts(layout, dx_BSD, "BRD")
        num_rows = table_VD.shape[0] // (1 if layout.local else layout.num_devices(layout.split_axes("V")))
        row_BS, mine_BS = _local_rows(tokens_BS, num_rows, layout)
        gradient_VD = jnp.zeros((num_rows, dx_BSD.shape[2]), jnp.float32)
        row_BS = jnp.where(mine_BS, row_BS, num_rows)  # past the end: dropped
        gradient_VD = gradient_VD.at[row_BS].add(dx_BSD.astype(jnp.float32), mode="drop")
        replicas = tuple(axis for axis in layout.token_axes if axis != "fsdp")
        return jax.lax.psum(gradient_VD, replicas) if replicas else gradient_VD

    specs = (layout.used("BRD"), layout.used("BS")), layout.stored("VD")
    return manual(local, layout, *specs)(dx_BRD, tokens_BS).astype(table_VD.dtype), None


_embed.defvjp(_forward, _backward)


def _local_rows(tokens_BS: jax.Array, num_rows: int, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """Tokens of this device's whole fsdp group as rows of its part of the table, and which of them lie in it."""
    if layout.size("fsdp") > 1:
        tokens_BS = jax.lax.all_gather(tokens_BS, "fsdp", axis=0, tiled=True)
    vocab_axes = layout.split_axes("V")
    tokens_BS = jnp.clip(tokens_BS, 0, num_rows * layout.num_devices(vocab_axes) - 1)
    if not vocab_axes:
        return tokens_BS, jnp.ones(tokens_BS.shape, bool)
    row_BS = tokens_BS - jax.lax.axis_index(vocab_axes) * num_rows
    return jnp.clip(row_BS, 0, num_rows - 1), (row_BS >= 0) & (row_BS < num_rows)

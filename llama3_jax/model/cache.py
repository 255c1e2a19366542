"""The paged key/value cache: pages of a few tokens that any row may hold, share or give back (4.2.2; Kwon et al. 2023).

One array of pages per layer. Which pages are whose is decided elsewhere (infer/pages.py); here is only what a model's
layers do with them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from llama3_jax.core.sharding import Layout
from llama3_jax.ops.paged_attention import PagedRows, paged_attention, write_pages
from llama3_jax.parallel.manual import manual


def init_pages(
    num_layers: int, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: Any, layout: Layout
) -> list[jax.Array]:
    """Empty pages `[P, A, J, E]` for each layer, made where a mesh is set if `layout` has several devices."""
    shape = (num_pages, page_size, 2 * num_kv_heads, head_dim)
    return [layout.place(jnp.zeros(shape, dtype), "PAJE") for _ in range(num_layers)]


def attend_paged(
    pages_PAJE: jax.Array,
    rows: PagedRows,
    layout: Layout,
    implementation: str,
    q_BSHE: jax.Array,
    k_BSKE: jax.Array,
    v_BSKE: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Attention of new tokens to all of their row's, themselves included: `[B, S, H, E]`, and the pages written."""

    def local(pages_PAJE, rows, q_BSHE, k_BSKE, v_BSKE):
        pages_PAJE = write_pages(pages_PAJE, k_BSKE, v_BSKE, rows)
        return paged_attention(q_BSHE, pages_PAJE, rows, implementation=implementation), pages_PAJE

    used = layout.used
    specs = (used("PAJE"), rows.specs(layout), used("BSHE"), used("BSKE"), used("BSKE"))
    run = manual(local, layout, specs, (used("BSHE"), used("PAJE")))
    return run(pages_PAJE, rows, q_BSHE, k_BSKE, v_BSKE)


def copy_pages(cache: list[jax.Array], source_C: jax.Array, target_C: jax.Array) -> list[jax.Array]:
    """Every layer's pages `target_C` overwritten by pages `source_C`; a target outside is dropped (padding)."""
    return [pages_PAJE.at[target_C].set(pages_PAJE[source_C], mode="drop") for pages_PAJE in cache]

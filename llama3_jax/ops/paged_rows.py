"""Which pages of a paged key/value cache hold the tokens of each row of a batch (4.2.2; Kwon et al. 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llama3_jax.core.sharding import Layout

NEVER = -1e30  # a score that no real one is below; finite, so that differences of two are numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PagedRows:
    """Where the tokens of each row lie. All int32."""

    table_BW: jax.Array  # page of the row's tokens [w * A, (w + 1) * A); what lies past its end is never read
    start_B: jax.Array  # tokens that the row has in the cache already
    count_B: jax.Array  # new tokens among the S; the rest is padding

    def positions(self, num_new: int) -> jax.Array:
        """Places in the row of S new tokens, `[B, S]`; padding has some too."""
        return self.start_B[:, None] + jnp.arange(num_new, dtype=jnp.int32)[None]

    def specs(self, layout: Layout) -> "PagedRows":
        """A `PartitionSpec` in the place of each array."""
        spec: PartitionSpec = layout.used("B")
        return PagedRows(layout.used("BW"), spec, spec)  # pyright: ignore[reportArgumentType]

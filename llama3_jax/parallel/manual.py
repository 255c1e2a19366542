"""Per-device code in the middle of a sharded program.

`manual` runs a function on each device's own part of its arguments, with the parts given by dim letters. Losses and
kernels use it where the compiler cannot split a computation by itself, or where the collectives must be exactly these.
"""

from collections.abc import Callable
from typing import Any

import jax

from llama3_jax.core.sharding import Layout


def manual(function: Callable, layout: Layout, inputs: Any, outputs: Any) -> Callable:
    """`function` over each device's part of its inputs; the function itself on one device, or where parts are local.

    `inputs` and `outputs` are pytrees of `PartitionSpec` like the function's arguments and results.
    Outputs that a spec leaves unsplit must be equal on all devices (the function reduces them itself).
    """
    if layout.single or layout.local:
        return function
    return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)

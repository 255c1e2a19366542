"""Per-device code in the middle of a sharded program.

`manual` runs a function on each device's own part of its arguments, with the parts given by dim letters. Losses and
kernels use it where the compiler cannot split a computation by itself, or where the collectives must be exactly these.
"""

from collections.abc import Callable
from typing import Any

import jax

from llama3_jax.core.sharding import Layout, logical_axis


def manual(function: Callable, layout: Layout, inputs: Any, outputs: Any) -> Callable:
    """`function` over each device's part of its inputs; the function itself on one device.

    `inputs` and `outputs` are pytrees of `PartitionSpec` like the function's arguments and results.
    Outputs that a spec leaves unsplit must be equal on all devices (the function reduces them itself).
    """
    if layout.single:
        return function
    return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)


def split_axes(layout: Layout, letters: str) -> tuple[str, ...]:
    """Mesh axes, larger than one device, over which an activation with these dims is split."""
    axes: list[str] = []
    for letter in letters:
        rule = dict(layout.used_rules).get(logical_axis(letter), ())
        axes.extend(axis for axis in rule if layout.size(axis) > 1)
    return tuple(axes)

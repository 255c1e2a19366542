"""What the backward pass keeps of a layer's forward pass, by name.

`none` keeps everything, `full` keeps only each layer's input, `dots` keeps what matmuls come to, and `save:NAME,NAME`
keeps the named values: query, key, value, attention, gate, up, residual (the `checkpoint_name`s in model/layers.py) and
attention_residuals, with which the chunked attention's backward pass need not run its forward pass again.
"""

from collections.abc import Callable

import jax

SAVED_NAMES = ("query", "key", "value", "attention", "gate", "up", "residual", "attention_residuals")
POLICIES: dict[str, tuple[str, ...]] = {  # the names that a policy saves
    "full": (),
    # By name, where JAX's own policy would take each product as it stands: in a pipeline some are sums still open over
    # the tensor axis, and as many times as large.
    "dots": ("query", "key", "value", "gate", "up", "residual"),
}


def rematerialised(function: Callable, policy: str) -> Callable:
    """`function` under the named policy. Raises ValueError for a name that does not exist."""
    if policy == "none":
        return function
    chosen = jax.checkpoint_policies.save_only_these_names(*saved_names(policy))
    return jax.checkpoint(function, policy=chosen, prevent_cse=False)


def saved_names(policy: str) -> tuple[str, ...]:
    """Names that the backward pass finds kept besides each layer's input. `none` keeps what has no name as well.

    Raises ValueError for a policy that does not exist.
    """
    check_policy(policy)
    if policy == "none":
        return SAVED_NAMES
    return POLICIES[policy] if policy in POLICIES else tuple(policy.removeprefix("save:").split(","))


def check_policy(policy: str) -> None:
    """Raises ValueError unless `policy` is none, full, dots or save: followed by known names."""
    if policy == "none" or policy in POLICIES:
        return
    names = policy.removeprefix("save:").split(",")
    unknown = [name for name in names if name not in SAVED_NAMES]
    if not policy.startswith("save:") or unknown:
        raise ValueError(
            f"remat {policy!r} is not a policy: use none, {', '.join(POLICIES)} or save:NAME,... with names of "
            f"{', '.join(SAVED_NAMES)}"
        )

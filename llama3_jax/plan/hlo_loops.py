"""How often an HLO loop runs: what XLA writes beside it, or counter, bound and step read from its computations.

CPU and GPU programs say `known_trip_count`; TPU programs do not, but a scan is still a counter that is compared with a
constant and moved by a constant.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from llama3_jax.plan.hlo_text import Computation, Instruction

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SAME = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "optimization-barrier")


def trip_count(loop: Instruction, computation: Computation, computations: Mapping[str, Computation]) -> int | None:
    """Turns of `loop`, a `while` in `computation`; None when they cannot be read."""
    if found := _KNOWN.search(loop.text):
        return int(found[1])
    condition = computations.get(loop.called("condition") or "")
    body = computations.get(loop.called("body") or "")
    if condition is None or body is None:
        return None
    compared = _comparison(condition, computations)
    if compared is None or compared.counter is None or compared.direction not in ("LT", "LE"):
        return None
    bound = compared.bound
    if bound is None and compared.carried is not None and _is_kept(body, compared.carried):
        bound = _initial(loop, computation, compared.carried)
    start, step = _initial(loop, computation, compared.counter), _step(body, compared.counter, computations)
    if bound is None or start is None or step is None or step <= 0:
        return None
    return max(0, math.ceil((bound + (compared.direction == "LE") - start) / step))


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """What a loop's condition compares; None for a side that is something else."""

    counter: int | None  # element of the loop's tuple, on the left
    bound: int | None  # constant on the right
    carried: int | None  # element of the loop's tuple, on the right: a bound that travels with the loop
    direction: str


def _comparison(condition: Computation, computations: Mapping[str, Computation]) -> _Comparison | None:
    """The comparison that `condition` returns, looking through the fusion around it; None when it has none."""
    inner, compare = condition, condition.root
    outside = {name: name for name in compare.operands}
    if compare.opcode != "compare":
        called = computations.get(compare.called("calls") or compare.called("to_apply") or "")
        if called is None or called.root.opcode != "compare":
            return None
        outside = _outside(called, compare)
        inner, compare = called, called.root
    left, right = compare.operands
    bound = _constant(outside.get(right, ""), condition)
    return _Comparison(
        counter=_tuple_index(outside.get(left, ""), condition),
        bound=_constant(right, inner) if bound is None else bound,
        carried=_tuple_index(outside.get(right, ""), condition),
        direction=compare.attribute("direction") or "",
    )


def _outside(inner: Computation, call: Instruction) -> dict[str, str]:
    """Names of a called computation's parameters -> names of the operands they stand for."""
    operands = call.operands
    return {
        instruction.name: operands[int(instruction.arguments)]
        for instruction in inner.instructions.values()
        if instruction.opcode == "parameter"
    }


def _resolve(name: str, computation: Computation) -> Instruction | None:
    """The instruction that makes a value, copies and bitcasts left out."""
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in _SAME:
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction


def _constant(name: str, computation: Computation) -> int | None:
    instruction = _resolve(name, computation)
    if instruction is None or instruction.opcode != "constant":
        return None
    value = instruction.arguments.strip()
    return int(value) if re.fullmatch(r"-?\d+", value) else None


def _tuple_index(name: str, computation: Computation) -> int | None:
    """Which element of the loop's tuple a value is."""
    instruction = _resolve(name, computation)
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    return int(instruction.attribute("index") or 0)


def _initial(loop: Instruction, computation: Computation, index: int) -> int | None:
    start = _resolve(loop.operands[0], computation)
    if start is None or start.opcode != "tuple":
        return None
    return _constant(start.operands[index], computation)


def _is_kept(body: Computation, index: int) -> bool:
    """True when a turn hands element `index` on as it is."""
    return body.root.opcode == "tuple" and _tuple_index(body.root.operands[index], body) == index


def _step(body: Computation, index: int, computations: Mapping[str, Computation]) -> int | None:
    """The constant that one turn adds to element `index`."""
    if body.root.opcode != "tuple":
        return None
    moved = _resolve(body.root.operands[index], body)
    if moved is None:
        return None
    if moved.opcode == "fusion":
        inner = computations.get(moved.called("calls") or "")
        if inner is None or inner.root.opcode != "add":
            return None
        outside = _outside(inner, moved)
        steps = [_constant(name, inner) or _constant(outside.get(name, ""), body) for name in inner.root.operands]
    elif moved.opcode == "add":
        steps = [_constant(name, body) for name in moved.operands]
    else:
        return None
    return next((step for step in steps if step is not None), None)

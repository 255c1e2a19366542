"""What a train step sends, over which axis, how often: a stray collective is a failing test.

Counts are of one step of the tiny model of the composition matrix (two layers, full rematerialisation, one micro-batch)
as XLA compiles it for eight CPU devices, loops multiplied out. A reduce-scatter that the compiler chose itself is, on a
CPU, an all-reduce and a slice; `llama3 compile` shows the programs of accelerators.
"""

import dataclasses
import json
import pathlib

import jax
import pytest

from llama3_jax.plan.hlo import program_costs
from tests.parallel.composition import EXACT, SHAPE, make_program, run_config

VERSION = ".".join(jax.__version__.split(".")[:2])
GOLDEN = pathlib.Path(__file__).with_name(f"collectives_jax_{VERSION}.json")  # compilers differ in what they combine
LAYOUTS = {
    "data": ({"data": 8}, {}),
    "fsdp": ({"fsdp": 8}, {}),
    "fsdp, kept after forward": ({"fsdp": 8}, {"reshard_after_forward": False}),
    "tensor with sequence parallelism": ({"tensor": 8}, {}),
    "context": ({"context": 8}, {}),
    "fsdp x context x tensor": ({"fsdp": 2, "context": 2, "tensor": 2}, {}),
}


def collectives(sizes, changes) -> dict[str, float]:
    """`"kind over axis"` -> executions in one step."""
    program = make_program(run_config(sizes, 1, dataclasses.replace(EXACT, **changes), SHAPE))
    costs = program_costs(program.compiled(program.plan.segments[0]).as_text(), dict(program.layout.sizes))
    counts: dict[str, float] = {}
    for key, (count, _) in costs.collectives.items():
        name = f"{key.kind} over {key.axis}"
        counts[name] = counts.get(name, 0) + count
    return dict(sorted(counts.items()))


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"no table for jax {VERSION}")
@pytest.mark.parametrize("name", LAYOUTS)
def test_collectives_are_those_of_the_table(name):
    got, golden = collectives(*LAYOUTS[name]), json.loads(GOLDEN.read_text())
    assert got == golden[name], f"to accept: python -m tests.plan.test_collectives > {GOLDEN.name}"


if __name__ == "__main__":
    print(json.dumps({name: collectives(*layout) for name, layout in LAYOUTS.items()}, indent=1))

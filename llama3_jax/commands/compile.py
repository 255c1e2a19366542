"""`llama3 compile`: will this run fit, and what does its step do? Answered on this machine, for any other."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from llama3_jax.core.config import freeze
from llama3_jax.plan.compiled import choose_segment, compile_step, facts
from llama3_jax.plan.remedies import Shortage, read_shortage, ways_out
from llama3_jax.plan.report import describe_segment, report, shortage_report, verdict, verdict_of
from llama3_jax.plan.search import judge
from llama3_jax.plan.topology import parse_topology, prepare_process
from llama3_jax.train.program import check_layout
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import PretrainConfig, layout_of

SUMMARY = "compile a run's train step for devices that are not there: memory, collectives, FLOPs, cycles"
MANUAL = """
Compiles the very step that `llama3 pretrain` would run with the same config, for TPUs (with libtpu, the tpu extra) or
NVIDIA GPUs (with the CUDA plugin, the cuda extra), none of which need be here. The last line says `fits` or `does not
fit`; in the second case the largest buffers and the cheapest changes that would help are named before it.

TOPOLOGY is a TPU slice by its Cloud name (v5p-256, v6e-256) or its shape in chips (v5p:4x4x8), or a number of GPUs
(h100x16384, h200x8).
"""
EXAMPLE = """
llama3 compile --config=configs/llama3_8b.py --topology=v5p-256
llama3 compile --config=configs/llama3_405b.py --topology=v5p-1024 --stage=long_context_131072 --json
"""
TAKES_CONFIG = True


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("topology", None, "devices to compile for", required=True, flag_values=values)
    flags.DEFINE_string("stage", None, "stage, by name or by its row in --explain, from 0", flag_values=values)
    flags.DEFINE_string("save", None, "file for the serialised executable", flag_values=values)
    flags.DEFINE_boolean("json", False, "print one line of JSON instead of tables", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    if options["config"] is None:
        raise ValueError("--config is required, for example --config=configs/llama3_8b.py")
    config = freeze(PretrainConfig, options["config"])
    topology = parse_topology(options["topology"])
    plan = Plan(config.recipe)
    index, segment = choose_segment(plan, options["stage"])
    layout = layout_of(config, config.mesh.resolve(topology.num_devices))
    check_layout(config, plan, layout)
    say = (lambda text: None) if options["json"] else functools.partial(print, flush=True)
    say(f"{describe_segment(index, segment)}\n")
    prepare_process()
    try:
        step = compile_step(config, topology, segment)
    except jax.errors.JaxRuntimeError as error:
        shortage = read_shortage(str(error))
        if shortage is None:
            raise
        memory, found = None, {"memory": {"peak": shortage.needed, "available": shortage.available, "fits": False}}
    else:
        if options["save"]:
            step.save(options["save"])
        memory, found = step.memory, facts(step)
        shortage = None if memory.fits else Shortage(memory.peak, memory.available, ())
        say(f"{report(step)}\n")
    if shortage is not None:
        missing = shortage.needed - shortage.available
        estimated = judge(config, layout, segment, topology.hardware).memory.parts
        ways = ways_out(config, topology, segment, missing)
        found |= {"ways_out": [dataclasses.asdict(way) for way in ways], "estimated_buffers": estimated}
        say(f"{shortage_report(shortage, estimated, ways)}\n")
    say(verdict(memory) if memory else verdict_of(found["memory"]["peak"], found["memory"]["available"]))
    if options["json"]:
        print(json.dumps({"topology": topology.name, "segment": index} | found))
    return 0 if shortage is None else 1

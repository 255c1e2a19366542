"""`llama3 plan`: which layout trains this model fastest on these devices, before any of them is paid for."""

import dataclasses
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import tqdm
from absl import flags

from llama3_jax.core.config import freeze
from llama3_jax.plan.compiled import choose_segment, compile_step
from llama3_jax.plan.ranking import breakdown, comparison, facts, ranking
from llama3_jax.plan.report import describe_segment
from llama3_jax.plan.search import HEADROOM, Candidate, alone, candidates, no_layout, ranked, too_large
from llama3_jax.plan.timeline import draw_timeline
from llama3_jax.plan.topology import GIB, HARDWARE, Hardware, parse_topology, prepare_process
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import PretrainConfig

SUMMARY = "find the layout that trains a model fastest on given devices: memory and time, projected"
MANUAL = """
Estimates the memory and projects the step time of every legal layout: mesh sizes, rows of a micro-batch, remat policy,
weights kept or gathered again, chunks of the pipeline. Prints the best of each split of the model, fastest first, with
the reason why the others lose; those marked - would be faster but do not fit. Nothing is compiled and no device is
needed; the config's own mesh and remat policy are not used. docs/plan.md says what is modelled and how well.

HARDWARE is h100, h200, b200, v4, v5e, v5p, v6e or ironwood. DEVICES counts as JAX does: an ironwood chip is two. With
--verify the best K are compiled ahead of time, and what the compiler says is printed beside what was predicted.
"""
EXAMPLE = """
llama3 plan --config=configs/llama3_405b.py --devices=8192 --hardware=h100
llama3 plan --config=configs/llama3_8b.py --devices=64 --hardware=v5p --verify=2 --timeline=pipeline.png
"""
TAKES_CONFIG = True
NAMES = {name: name for name in HARDWARE} | {"ironwood": "tpu7x"}


def define_flags(values: flags.FlagValues) -> None:
    integer, text = functools.partial(flags.DEFINE_integer, flag_values=values), flags.DEFINE_string
    integer("devices", None, "how many devices", required=True, lower_bound=1)
    flags.DEFINE_enum("hardware", None, list(NAMES), "their kind", required=True, flag_values=values)
    text("stage", None, "stage, by name or by its row in --explain, from 0", flag_values=values)
    flags.DEFINE_float("memory_gib", None, "memory of a device, where it is not the usual", flag_values=values)
    integer("top", 10, "layouts to print", lower_bound=1)
    integer("verify", 0, "compile the best K ahead of time", lower_bound=0)
    text("timeline", None, "PNG file for the winner's pipeline", flag_values=values)
    flags.DEFINE_boolean("json", False, "print one line of JSON instead of tables", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    if options["config"] is None:
        raise ValueError("--config is required, for example --config=configs/llama3_405b.py")
    config = freeze(PretrainConfig, options["config"])
    hardware, devices = _hardware(options), options["devices"]
    topology = parse_topology(_name(hardware, devices))
    index, segment = choose_segment(Plan(config.recipe), options["stage"])
    config = alone(config, segment)
    say = (lambda text: None) if options["json"] else functools.partial(print, flush=True)
    usable = f"{HEADROOM * hardware.memory_bytes / GIB:.1f} of {hardware.memory_bytes / GIB:.1f} GiB each"
    say(f"{describe_segment(index, segment)}\n{topology}; planned with {usable}")
    found = list(_counted(candidates(config, devices, hardware), quiet=options["json"]))
    best = ranked(found)
    if not best:
        raise ValueError(no_layout(found, config, devices, hardware))
    shown, larger = best[: options["top"]], too_large(found, best[0], 3)
    say(
        f"{len(found):,} layouts, {sum(layout.fits for layout in found):,} of them fit\n\n"
        f"{ranking(shown, larger)}\n\n{breakdown(best[0])}"
    )
    if options["timeline"]:
        _draw(best[0], options["timeline"], say)
    verified = [_verify(candidate, topology, say) for candidate in best[: options["verify"]]]
    if options["json"]:
        listed = [facts(candidate, best[0]) for candidate in (*shown, *larger)]
        print(json.dumps({"topology": topology.name, "segment": index, "layouts": listed, "verified": verified}))
    return 0


def _hardware(options: Mapping[str, Any]) -> Hardware:
    hardware, gib = HARDWARE[NAMES[options["hardware"]]], options["memory_gib"]
    if gib is None:
        return hardware
    if gib <= 0:
        raise ValueError(f"--memory_gib must be positive, got {gib}")
    return dataclasses.replace(hardware, memory_bytes=int(gib * GIB))


def _name(hardware: Hardware, devices: int) -> str:
    """The topology's name. Raises ValueError when the devices are not whole chips."""
    if hardware.platform == "cuda":
        return f"{hardware.name}x{devices}"
    chips, left = divmod(devices, hardware.devices_per_chip)
    if left:
        raise ValueError(
            f"{hardware.name} has {hardware.devices_per_chip} devices a chip, {devices} are no whole chips"
        )
    return f"{hardware.name}-{chips * hardware.named_per_chip}"


def _counted(found: Iterable[Candidate], quiet: bool) -> Iterator[Candidate]:
    """One line of progress."""
    return iter(tqdm.tqdm(found, desc="layouts", unit="", disable=quiet or not sys.stderr.isatty(), leave=False))


def _draw(winner: Candidate, file: str, say: Any) -> None:
    """The winner's pipeline. Raises ValueError when it has none."""
    stages = winner.layout.size("stage")
    if stages == 1:
        raise ValueError(f"--timeline: the fastest layout has no pipeline to draw, {file} is not written")
    draw_timeline(winner.config.pipeline.schedule_of(stages, winner.micro_batches), *winner.projection.tick, file)
    say(f"\npipeline of the first: {file}")


def _verify(candidate: Candidate, topology: Any, say: Any) -> dict[str, Any]:
    """Compiles a candidate and prints what was predicted beside it."""
    prepare_process()
    (segment,) = Plan(candidate.config.recipe).segments
    try:
        step = compile_step(candidate.config, topology, segment)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"\n{candidate.mesh}: the compiler finds no room for it: {str(error).splitlines()[0]}")
        return {"predicted": candidate.memory.peak, "compiled": None}
    say(f"\n{comparison(candidate, step)}")
    return {"predicted": candidate.memory.peak, "compiled": step.memory.peak, "cycles": step.cycles}

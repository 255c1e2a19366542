"""The memory estimate against compiled programs: benchmarks/compiled_layouts.jsonl, made by the script of that name."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks.ahead_of_time import Run, config_of
from llama3_jax.model.llama import layer_products, layer_weights
from llama3_jax.parallel.schedule import PipelineConfig, make_schedule
from llama3_jax.plan.memory import estimate_memory
from llama3_jax.plan.topology import parse_topology
from llama3_jax.plan.work import Share, repeated_weights, rings_of
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import layout_of

ROOT = pathlib.Path(__file__).parents[2]
COMPILED = [json.loads(line) for line in (ROOT / "benchmarks" / "compiled_layouts.jsonl").read_text().splitlines()]
TOLERANCE = 0.10


def share_of(compiled) -> tuple[Share, str]:
    run = Run(**compiled["run"])
    config, topology = config_of(run), parse_topology(run.topology)
    layout = layout_of(config, config.mesh.resolve(topology.num_devices))
    platform = topology.hardware.platform
    (segment,) = Plan(config.recipe).segments
    return Share(config, layout, segment, kernel_names_residuals=platform != "cuda"), platform


@pytest.mark.parametrize("compiled", COMPILED, ids=lambda compiled: compiled["name"])
def test_the_peak_is_within_a_tenth_of_what_the_compiler_says(compiled):
    estimated, peak = estimate_memory(*share_of(compiled)).peak, compiled["memory"]["peak"]
    assert estimated == pytest.approx(peak, rel=TOLERANCE), f"{estimated / peak - 1:+.1%}"


def test_both_platforms_and_all_kinds_of_layouts_are_among_them():
    shares = [share_of(compiled) for compiled in COMPILED]
    for platform in ("cuda", "tpu"):
        layouts = [share.layout for share, where in shares if where == platform]
        assert len(layouts) >= 5 and any(layout.size("tensor") > 1 for layout in layouts)
    assert {axis for share, _ in shares for axis, size in share.layout.sizes if size > 1} == {
        "data", "fsdp", "stage", "context", "tensor",
    }  # fmt: skip
    assert len({share.policy for share, _ in shares}) >= 4


@pytest.mark.parametrize(
    "compiled", [c for c in COMPILED if c["run"]["stage"] == 1], ids=lambda compiled: compiled["name"]
)
def test_counted_products_are_those_that_the_compiler_runs(compiled):
    share, _ = share_of(compiled)
    counted = share.micro_batches * (share.layer_slots * sum(share.layer_flops) + share.head_flops)
    assert counted == pytest.approx(compiled["flops"]["matmul"], rel=0.01)


def test_a_layer_has_its_weights_and_repeats_what_is_not_kept():
    (model,) = {share_of(c)[0].model for c in COMPILED if c["name"] == "8b h100 full"}
    weights = layer_products(model)
    assert sum(weights.values()) == layer_weights(model)
    assert repeated_weights(model, "none") == repeated_weights(model, "dots") == 0
    assert repeated_weights(model, "full") == layer_weights(model) - weights["down"]
    assert repeated_weights(model, "save:gate,up") == repeated_weights(model, "full") - 2 * weights["up"]


def test_parts_are_positive_and_a_pipeline_does_not_grow_with_its_micro_batches():
    (compiled,) = (c for c in COMPILED if c["name"] == "405b h100 pipeline")
    few, platform = share_of(compiled)
    many, _ = share_of(compiled | {"run": compiled["run"] | {"rows": 256, "micro_batches": 128}})
    before, after = estimate_memory(few, platform), estimate_memory(many, platform)
    assert min(before.parts.values()) >= 0 and many.micro_batches == 4 * few.micro_batches
    assert after.peak == pytest.approx(before.peak, rel=0.001)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_formulas_of_the_rings_are_those_of_the_table(ranks, chunks):
    for group in (ranks, ranks + 1, 2 * ranks):
        for groups in (1, 2, 3):
            table = make_schedule(ranks, chunks, groups * group, group)
            rings = rings_of(PipelineConfig(chunks=chunks, group=group), ranks, groups * group)
            assert rings.schedule is None
            assert (rings.ticks, rings.inputs, rings.gradients) == (
                table.ticks, table.input_slots, table.gradient_slots,
            )  # fmt: skip
            assert rings.bubble(1.0, 3.0) == pytest.approx(table.bubble(1.0, 3.0))


def test_uneven_groups_and_other_schedules_are_looked_up():
    for pipeline in (PipelineConfig(chunks=2, group=4), PipelineConfig(chunks=2, group=6, schedule="gpipe")):
        rings, table = rings_of(pipeline, 4, 6), pipeline.schedule_of(4, 6)
        assert rings.schedule is not None and rings.inputs == table.input_slots
        assert rings.bubble(1.0, 2.0) == pytest.approx(table.bubble(1.0, 2.0))


@pytest.mark.tpu_aot
def test_a_layout_compiled_now_needs_what_it_needed_then():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    command = [sys.executable, "-m", "benchmarks.compiled_layouts", "1b v5e full"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    fresh = json.loads(done.stdout.splitlines()[-1])
    estimated = estimate_memory(*share_of(fresh)).peak
    assert estimated == pytest.approx(fresh["memory"]["peak"], rel=TOLERANCE)


def test_runs_kept_are_runs_that_the_script_knows():
    fields = {field.name for field in dataclasses.fields(Run)}
    assert all(set(compiled["run"]) == fields for compiled in COMPILED)

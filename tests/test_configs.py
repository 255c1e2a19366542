"""Every config of the repository: it loads, survives the door both ways, resolves, and its loss can be traced."""

import dataclasses
import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.core.config import freeze, thaw, to_dict
from llama3_jax.core.sharding import MESH_AXES, MeshConfig, make_mesh
from llama3_jax.curation.curation_config import CurationConfig
from llama3_jax.train.program import Program
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import PretrainConfig

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def load(path: pathlib.Path) -> dict:
    """The names a config file defines."""
    names: dict = {"__name__": f"configs.{path.stem}"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


FILES = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
ALL = [(stem, variant) for stem, path in FILES.items() for variant in load(path).get("VARIANTS", [""])]
CURATION = [(stem, variant) for stem, variant in ALL if stem.startswith("curate")]
RUNS = [each for each in ALL if each not in CURATION]


@pytest.fixture(params=RUNS, ids=":".join)
def thawed(request):
    """What `get_config(variant)` returns."""
    stem, variant = request.param
    return load(FILES[stem])["get_config"](variant)


def test_there_are_configs():
    assert {"tiny", "quickstart"} <= set(FILES)
    assert any("405b" in stem + variant for stem, variant in RUNS)


def test_it_passes_the_door_both_ways(thawed):
    config = freeze(PretrainConfig, thawed)
    assert freeze(PretrainConfig, thaw(config)) == config
    assert freeze(PretrainConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(("stem", "variant"), CURATION)
def test_a_config_of_curation_passes_the_door_both_ways(stem, variant):
    config = freeze(CurationConfig, load(FILES[stem])["get_config"](variant))
    assert freeze(CurationConfig, thaw(config)) == config
    assert freeze(CurationConfig, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ValueError, match="no variant"):
        load(FILES[stem])["get_config"]("other")


def test_its_plan_resolves(thawed):
    config = freeze(PretrainConfig, thawed)
    plan = Plan(config.recipe)
    assert plan.segments[0].start_step == 0 and plan.segments[0].stage == "initial"
    for before, after in itertools.pairwise(plan.segments):
        assert (before.end_step, before.end_tokens) == (after.start_step, after.start_tokens)
        assert before.sequence_length <= after.sequence_length
    assert plan.tokens(plan.total_steps) >= config.recipe.total_tokens
    rates = np.array([plan.learning_rate(step) for step in range(0, plan.total_steps, max(1, plan.total_steps // 997))])
    assert (rates > 0).all() and rates.max() <= config.recipe.learning_rate.peak


def on_eight_devices(config: PretrainConfig) -> PretrainConfig:
    """The run with every axis that its mesh has, two devices wide where it asks for more than there are."""
    sizes = {axis: getattr(config.mesh, axis) for axis in MESH_AXES}
    if math.prod(abs(size) for size in sizes.values()) <= 8:
        return config
    sizes = {axis: min(size, 2) for axis, size in sizes.items()}
    if math.prod(sizes.values()) > 8:
        sizes["fsdp"] = 1
    return dataclasses.replace(config, mesh=MeshConfig(**sizes))


def test_its_gradients_trace_on_its_mesh(thawed):
    """Loss and gradients of the first stage's batches, pipeline and all, without an array."""
    config = on_eight_devices(freeze(PretrainConfig, thawed))
    program = Program(config, make_mesh(config.mesh))
    segment = program.plan.segments[0]
    with jax.set_mesh(program.mesh):
        gradients = program.gradients(segment.rope_scaling)
        loss, sums, grads = jax.eval_shape(gradients, program.abstract, program.abstract_batch(segment))
    assert loss.shape == sums["tokens"].shape == () and loss.dtype == jnp.float32
    assert jax.tree.map(lambda g: (g.shape, g.dtype), grads) == jax.tree.map(
        lambda p: (p.shape, p.dtype), program.abstract
    )


@pytest.mark.parametrize("stem", FILES)
def test_unknown_variants_are_refused(stem):
    with pytest.raises(ValueError, match=rf"configs/{stem}\.py has no variant 'nothing'"):
        load(FILES[stem])["get_config"]("nothing")

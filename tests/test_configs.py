"""Every config of the repository: it loads, survives the door both ways, resolves, and its loss can be traced."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llama3_jax.core.config import freeze, thaw, to_dict
from llama3_jax.core.params import abstract_params, split_module
from llama3_jax.core.sharding import Layout, batch_sharding, make_mesh
from llama3_jax.model.llama import Llama
from llama3_jax.train.objective import make_next_token_objective
from llama3_jax.train.program import check_layout, resolve_compute
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import PretrainConfig

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def load(path: pathlib.Path) -> dict:
    """The names a config file defines."""
    names: dict = {"__name__": f"configs.{path.stem}"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


FILES = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
RUNS = [(stem, variant) for stem, path in FILES.items() for variant in load(path).get("VARIANTS", [""])]


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


def test_its_loss_traces_on_its_mesh(thawed):
    """Value and gradients of the first stage's shape, a row on every data-parallel group, without an array."""
    config = freeze(PretrainConfig, thawed)
    mesh = make_mesh(config.mesh)
    layout = Layout.of(mesh)
    plan = Plan(config.recipe)
    check_layout(config, plan, layout)
    model = Llama(config.model, resolve_compute(config.compute, mesh), layout)
    abstract, graphdef = abstract_params(model, mesh), split_module(model)[0]
    shape = (layout.size("data") * layout.size("fsdp"), plan.segments[0].sequence_length)
    array = lambda dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, 2))
    batch = {name: array(jnp.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
    batch["loss_weights"] = array(jnp.float32)
    loss_fn = make_next_token_objective(config.z_loss)
    loss_of = lambda params, batch: loss_fn(nnx.merge(graphdef, params), batch)
    with jax.set_mesh(mesh):
        (loss, sums), grads = jax.eval_shape(jax.value_and_grad(loss_of, has_aux=True), abstract, batch)
    assert loss.shape == sums["tokens"].shape == () and loss.dtype == jnp.float32
    assert jax.tree.map(lambda g: (g.shape, g.dtype), grads) == jax.tree.map(lambda p: (p.shape, p.dtype), abstract)


@pytest.mark.parametrize("stem", FILES)
def test_unknown_variants_are_refused(stem):
    with pytest.raises(ValueError, match=rf"configs/{stem}\.py has no variant 'nothing'"):
        load(FILES[stem])["get_config"]("nothing")

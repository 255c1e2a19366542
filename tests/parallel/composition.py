"""One train step of a tiny model on any mesh, to be compared with the same step on one device."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llama3_jax.core.params import EMPTY_ROW, init_params, shardings_of
from llama3_jax.core.sharding import MESH_AXES, MeshConfig, batch_sharding, make_mesh
from llama3_jax.model.layers import ComputeConfig, RopeScaling
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.parallel.schedule import PipelineConfig
from llama3_jax.train.optim import OptimizerConfig
from llama3_jax.train.program import Program
from llama3_jax.train.recipe import one_batch_recipe
from llama3_jax.train.run_config import DataConfig, PretrainConfig
from llama3_jax.train.step import init_state

TOLERANCE = 1e-5
# Every way to make eight devices of the five axes, in the order of MESH_AXES.
MESHES = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=len(MESH_AXES)) if math.prod(sizes) == 8]
POISON = 1  # a token id that only padding holds; its embedding is NaN
LENGTH, ROWS, VOCAB = 32, 32, 64
SHAPE = LlamaConfig(
    vocab_size=VOCAB, num_layers=2, embed_dim=32, num_heads=16, num_kv_heads=8, head_dim=4, mlp_dim=64, max_length=64,
    rope_scaling=RopeScaling(factor=8.0, original_length=16),
)  # fmt: skip
EXACT = ComputeConfig(compute_dtype="float32", attention="chunked", remat="full", loss_chunk=24)
UNUSED = PipelineConfig()  # on a mesh without stages
LEARNING_RATE = 1e-2
DOCUMENTS = {  # lengths that start, end and straddle the borders of chunks, of one token, of a whole row
    "packed": [[32], [1] * 5 + [9, 16], [4, 4, 8, 16], [3, 1, 12, 1, 9], [31, 1], [2] * 15, [17, 11], [7, 25]],
    "unpacked": [[length] for length in (32, 31, 20, 17, 16, 9, 5, 1)],
}


def host_batch(kind: str) -> dict[str, np.ndarray]:
    """Rows `[ROWS, LENGTH]` of documents; what is left of a row is padding: poisoned tokens of weight 0."""
    random = np.random.default_rng(0)
    batch = {
        "tokens": np.full((ROWS, LENGTH), POISON, np.int32),
        "targets": np.full((ROWS, LENGTH), POISON, np.int32),
        "segment_ids": np.zeros((ROWS, LENGTH), np.int32),
        "positions": np.zeros((ROWS, LENGTH), np.int32),
        "loss_weights": np.zeros((ROWS, LENGTH), np.float32),
    }
    for row in range(ROWS):
        start = 0
        for number, length in enumerate(DOCUMENTS[kind][row % len(DOCUMENTS[kind])], 1):
            part = (row, slice(start, start + length))
            tokens = random.integers(POISON + 1, VOCAB, length + 1)
            batch["tokens"][part], batch["targets"][part] = tokens[:-1], tokens[1:]
            batch["segment_ids"][part], batch["positions"][part] = number, np.arange(length)
            batch["loss_weights"][part] = random.uniform(size=length) > 0.2
            start += length
    return batch


def run_config(
    sizes: Mapping[str, int],
    micro: int,
    compute: ComputeConfig,
    model: LlamaConfig,
    pipeline: PipelineConfig = UNUSED,
) -> PretrainConfig:
    """A run whose only stage has batches of the tests' shape."""
    return PretrainConfig(
        workdir="unused",
        model=model,
        data=DataConfig(tokenizer="unused", sources={"text": "unused"}),
        recipe=one_batch_recipe(LENGTH, ROWS, "text"),
        micro_batch_tokens=ROWS * LENGTH // micro,
        z_loss=1e-3,
        compute=compute,
        mesh=MeshConfig(**{axis: sizes.get(axis, 1) for axis in MESH_AXES}),
        pipeline=pipeline,
        optimizer=OptimizerConfig(),
    )


class RecordingProgram(Program):
    """The program of a run, with the gradients it clips and applies kept in the optimizer's state."""

    empty = np.nan

    def __init__(self, config, mesh):
        super().__init__(config, mesh)
        record = optax.GradientTransformation(
            lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, state, params=None: (grads, grads)
        )
        self.optimizer = optax.chain(record, self.optimizer)


def make_program(config: PretrainConfig, kind: type[Program] = Program) -> Program:
    """The program of a run on as many devices as its mesh has."""
    return kind(config, make_mesh(config.mesh, jax.devices()[: math.prod(dataclasses.astuple(config.mesh))]))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one update did, on the host."""

    metrics: dict[str, float]
    gradients: dict
    params: dict


def one_update(
    sizes: Mapping[str, int],
    kind: str,
    micro: int,
    compute: ComputeConfig = EXACT,
    model: LlamaConfig = SHAPE,
    tamper: Callable[[Program, dict], dict] = lambda program, batch: batch,
    pipeline: PipelineConfig = UNUSED,
) -> Outcome:
    """Loss, gradients and new parameters of one step on a mesh of these sizes.

    `tamper` may change the program or the batch, as split over the mesh, to see whether that is noticed.
    """
    program = make_program(run_config(sizes, micro, compute, model, pipeline), RecordingProgram)
    mesh, (segment,) = program.mesh, program.plan.segments
    with jax.set_mesh(mesh):
        params = init_params(program.model, 0, mesh, program.layout)
        params = params if model.tied else _poisoned(params)  # a tied table is the head too, and padding no output
        state = jax.jit(lambda params: init_state(params, program.optimizer))(params)
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state()))
    shape, sharding = program.batch_shape(segment), batch_sharding(mesh, 3, leading=1)
    rows = tamper(program, program.split(host_batch(kind)))
    batch = {name: jax.device_put(array.reshape(shape), sharding) for name, array in rows.items()}
    state, metrics = program.compiled(segment)(state, batch, np.float32(LEARNING_RATE))
    assert jax.tree.map(lambda leaf: leaf.sharding, state.params) == shardings_of(program.model, mesh, program.layout)
    gradients, *_ = state.moments
    trees = (_in_order(tree, program.layer_rows) for tree in jax.device_get((gradients, state.params)))
    return Outcome({name: float(value) for name, value in metrics.items()}, *trees)


def _in_order(tree, layer_rows):
    """Layers in the order of the model; rows that hold none must be zeros."""
    rows = np.array(layer_rows)
    for leaf in jax.tree.leaves(tree["layers"]):
        assert not leaf[rows == EMPTY_ROW].any()
    order = np.argsort(rows)[np.sum(rows == EMPTY_ROW) :]
    return {**tree, "layers": jax.tree.map(lambda leaf: leaf[order], tree["layers"])}


def _poisoned(params):
    table_VD = np.array(params["embedding_VD"])
    table_VD[POISON] = np.nan
    return {**params, "embedding_VD": jax.device_put(table_VD, params["embedding_VD"].sharding)}


def relative_errors(got: Outcome, want: Outcome) -> dict[str, float]:
    """For the loss and every leaf: ‖got − want‖₂ / ‖want‖₂, over finite entries (poison must be in the same places)."""
    errors = {"loss": abs(got.metrics["loss"] - want.metrics["loss"]) / abs(want.metrics["loss"])}
    for part in ("gradients", "params"):
        leaves = jax.tree_util.tree_leaves_with_path(getattr(want, part))
        for (path, right), left in zip(leaves, jax.tree.leaves(getattr(got, part)), strict=True):
            np.testing.assert_array_equal(np.isnan(left), np.isnan(right))
            difference, size = np.linalg.norm(np.nan_to_num(left - right)), np.linalg.norm(np.nan_to_num(right))
            errors[f"{part}{jax.tree_util.keystr(path)}"] = float(difference / size)
    return errors


@functools.cache
def on_one_device(kind: str, micro: int, model: LlamaConfig) -> Outcome:
    """The judge: one device, plain attention, nothing rematerialised."""
    compute = dataclasses.replace(EXACT, attention="reference", remat="none")
    return one_update({}, kind, micro, compute, model)


def check(
    sizes: Sequence[int],
    kind: str,
    micro: int,
    model: LlamaConfig = SHAPE,
    pipeline: PipelineConfig = UNUSED,
    **compute: Any,
) -> None:
    """An update on a mesh of these sizes, in the order of MESH_AXES, is the judge's. `compute`: what is not EXACT."""
    changed = dataclasses.replace(EXACT, **compute)
    got = one_update(dict(zip(MESH_AXES, sizes, strict=True)), kind, micro, changed, model, pipeline=pipeline)
    assert got.metrics["skipped"] == 0
    errors = relative_errors(got, on_one_device(kind, micro, model))
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= TOLERANCE, f"{worst}: {errors[worst]:.1e}"

"""A trained or converted model from its folder.

Everything that opens a model's checkpoint comes through `open_stored`: what it is, where it lies, and its arrays, whole
onto a mesh or one layer at a time.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from llama3_jax.core import config as config_lib
from llama3_jax.core.params import EMPTY_ROW, Params, abstract_params, map_declarations, split_module
from llama3_jax.core.paths import path_of
from llama3_jax.core.sharding import Layout
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.model.convert import slots
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.train.checkpoint import STATE, CheckpointError, Checkpoints
from llama3_jax.train.layer_arrays import LayerReader
from llama3_jax.train.layer_rows import LAYERS
from llama3_jax.train.program import resolve_compute, stage_model
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import PretrainConfig, layout_of

CONVERTED = "converted"  # key of run.json: a `ConvertedConfig` instead of a run's config


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertedConfig:
    """What a checkpoint of converted weights says about itself."""

    model: LlamaConfig
    compute: ComputeConfig
    tokenizer: str | None = None  # a file beside the checkpoint
    source: str = ""  # the format that the weights came in
    quantized: str | None = None  # the grid of the rows that feed-forward layers are stored in


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A checkpoint that was found and understood. Its arrays are not read yet."""

    folder: epath.Path  # of the checkpoints
    step: int
    run: dict[str, Any]
    model: LlamaConfig  # as the step's stage runs it
    compute: ComputeConfig
    tokenizer: str | None  # path of the file
    config: PretrainConfig | None  # None for converted weights
    quantized: str | None = None  # the grid of the rows that feed-forward layers are stored in

    def restore(self, module: Llama, mesh: Mesh) -> Params:
        """All parameters with the dtypes of `module`, placed on `mesh`."""
        checkpoints = Checkpoints(str(self.folder), read_only=True)
        try:
            return checkpoints.restore_params(self.step, abstract_params(module, mesh))
        finally:
            checkpoints.close()

    def restore_apart(self, module: Llama, mesh: Mesh) -> Params:
        """All parameters of a `module` whose layers stand apart, each one layer or a stack of a few.

        Arrays are read and placed one at a time. Raises CheckpointError for one of another shape.
        """
        reader = self.layers()

        def read(path: tuple[str, ...], param: nnx.Param) -> np.ndarray:
            if path[0] != LAYERS:
                return reader.read("/".join(path), None)
            name, rows = "/".join((path[0], *path[2:])), getattr(param, "rows", None)
            if rows is None:
                return reader.read(name, int(path[1]))
            layers = {row: reader.read(name, row) for row in rows if row != EMPTY_ROW}
            empty = np.zeros_like(next(iter(layers.values())))
            return np.stack([layers.get(row, empty) for row in rows])

        def place(path: tuple[str, ...], param: nnx.Param) -> jax.Array:
            values, declared = read(path, param), param.get_value()
            if values.shape != declared.shape:
                name = "/".join(path)
                raise CheckpointError(f"{name} in {self.folder} has shape {values.shape}, not {declared.shape}")
            values = values.astype(declared.dtype)
            sharding = NamedSharding(mesh, module.layout.stored(param.letters))
            return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

        return map_declarations(place, module)

    def layers(self) -> LayerReader:
        """The parameters one layer at a time, dtypes as stored."""
        rows_of: dict[str, list[int]] = {}
        for slot in slots(self.model, self.quantized) if self.quantized else ():
            if slot.layer is not None:
                rows_of.setdefault(slot.path, []).append(slot.layer)
        return LayerReader(self.folder / str(self.step) / STATE, self.run.get("layer_rows"), rows_of)

    def layout(self, mesh: Mesh) -> Layout:
        """How the model is laid out on `mesh`: as its run was, for one that was trained here."""
        return Layout.of(mesh) if self.config is None else layout_of(self.config, mesh.shape)

    def load_tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None when there is none. Raises ValueError when the file is not the one of the run."""
        if self.tokenizer is None:
            return None
        tokenizer = Tokenizer.load(self.tokenizer)
        if tokenizer.fingerprint != self.run["fingerprints"]["tokenizer"]:
            raise ValueError(f"{self.tokenizer} is not the tokenizer that {self.folder} was trained with")
        return tokenizer


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A checkpoint opened for use: `nnx.merge(graphdef, params)` is the model."""

    stored: StoredModel
    graphdef: Any
    params: Params
    tokenizer: Tokenizer | None

    @property
    def model(self) -> Llama:
        """Code and weights joined."""
        return nnx.merge(self.graphdef, self.params)


def open_stored(path: str, step: int | None = None) -> StoredModel:
    """Finds a run's folder (its `final/`, else its newest checkpoint), or a folder of checkpoints itself.

    Raises FileNotFoundError when there is no complete checkpoint, CheckpointError when it does not describe itself.
    """
    folder, step = _find(path_of(path), step)
    checkpoints = Checkpoints(str(folder), read_only=True)
    try:
        run = checkpoints.read_run(step)
    finally:
        checkpoints.close()
    if CONVERTED in run:
        converted = config_lib.freeze(ConvertedConfig, run[CONVERTED], "checkpoint")
        tokenizer = converted.tokenizer and str(folder / converted.tokenizer)
        return StoredModel(folder, step, run, converted.model, converted.compute, tokenizer, None, converted.quantized)
    config = config_lib.freeze(PretrainConfig, run["config"], "checkpoint")
    model = stage_model(config.model, Plan(config.recipe).segment(max(0, step - 1)).rope_scaling)
    return StoredModel(folder, step, run, model, config.compute, config.data.tokenizer, config)


def load_model(path: str, mesh: Mesh, step: int | None = None) -> TrainedModel:
    """Opens a model (see `open_stored`) and places its arrays on `mesh`; layers are apart if it is quantised.

    Raises FileNotFoundError when there is no complete checkpoint, ValueError when the tokenizer is not the one that the
    model was trained with.
    """
    stored = open_stored(path, step)
    tokenizer = stored.load_tokenizer()
    compute, grid = resolve_compute(stored.compute, mesh), stored.quantized
    module = Llama(stored.model, compute, stored.layout(mesh), layers_apart=grid is not None, quantized=grid)
    restore = stored.restore if grid is None else stored.restore_apart
    return TrainedModel(stored, split_module(module)[0], restore(module, mesh), tokenizer)


def _find(path: epath.Path, step: int | None) -> tuple[epath.Path, int]:
    for folder in (path / "final", path / "checkpoints", path):
        if not folder.is_dir():
            continue
        checkpoints = Checkpoints(str(folder), read_only=True)
        steps = checkpoints.steps()
        checkpoints.close()
        if steps and (step is None or step in steps):
            return folder, steps[-1] if step is None else step
    wanted = "complete checkpoint" if step is None else f"checkpoint of step {step}"
    raise FileNotFoundError(f"{path} has no {wanted}")

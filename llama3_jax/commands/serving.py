"""What the commands that generate have in common: their flags, and a generator for the model they name."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import Mesh

from llama3_jax.core.params import Params
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.engine import Engine
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.request import SamplingConfig
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.infer.staged import StagedModel, declare_staged
from llama3_jax.infer.whole import WholeModel
from llama3_jax.model.llama import Llama
from llama3_jax.train.load import StoredModel, open_stored
from llama3_jax.train.program import resolve_compute

SAMPLING_FLAGS = {  # name -> (type, default, help); the names are SamplingConfig's
    "max_new_tokens": ("integer", 128, "most tokens to write"),
    "temperature": ("float", 0.6, "0 is greedy"),
    "top_p": ("float", 0.9, "probability mass of the nucleus"),
    "top_k": ("integer", 0, "most likely tokens to draw from; 0: all"),
    "min_p": ("float", 0.0, "least probability, relative to the likeliest token's"),
    "repetition_penalty": ("float", 1.0, "above 1 makes tokens that were there before less likely"),
    "seed": ("integer", 0, "seed of the draws"),
}


def define_model_flags(values: flags.FlagValues) -> None:
    """Which model, and on what it runs."""
    flags.DEFINE_string("checkpoint", None, "a run's folder, or converted weights", flag_values=values, required=True)
    flags.DEFINE_integer("step", None, "checkpoint to use instead of the newest", flag_values=values)
    flags.DEFINE_integer("tensor", 1, "devices to split each layer over", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("stage", 1, "pipeline stages to split the layers over", flag_values=values, lower_bound=1)
    flags.DEFINE_enum(
        "dtype", None, ("bfloat16", "float32"), "of weights and cache (default: its own)", flag_values=values
    )


def define_sampling_flags(values: flags.FlagValues) -> None:
    """How answers are drawn."""
    for name, (kind, default, meaning) in SAMPLING_FLAGS.items():
        getattr(flags, f"DEFINE_{kind}")(name, default, meaning, flag_values=values)
    flags.DEFINE_multi_string("stop", [], "text that ends an answer; may be given often", flag_values=values)


def sampling_of(options: Mapping[str, Any]) -> SamplingConfig:
    """The flags as settings, without the model's stop tokens."""
    return SamplingConfig(**{name: options[name] for name in SAMPLING_FLAGS}, stop=tuple(options["stop"]))


MEMORY_FOR_PAGES = 0.9  # of what the weights leave; the rest is for the steps' own arrays


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate."""

    stored: StoredModel
    module: Llama
    params: Params
    mesh: Mesh
    tokenizer: Tokenizer

    def engine(self, config: SchedulerConfig) -> Engine:
        """An engine with room for what `config` says; in a pipeline, with as many groups as stages."""
        stages = self.module.layout.size("stage")
        if stages == 1:
            return Engine(WholeModel(self.module, self.params, self.mesh, config))
        slots = -(-config.num_slots // stages) * stages
        config = dataclasses.replace(config, num_slots=slots, num_groups=stages, smallest_piece=config.prefill_tokens)
        return Engine(StagedModel(self.module, self.params, self.mesh, config))


def load(options: Mapping[str, Any]) -> LoadedModel:
    """The model that the flags name, on `--tensor` times `--stage` devices, and its tokenizer.

    Raises ValueError when there is no tokenizer, without which nothing can be written, and as `place`.
    """
    stored = open_stored(options["checkpoint"], options["step"])
    tokenizer = stored.load_tokenizer()
    if tokenizer is None:
        raise ValueError(f"{options['checkpoint']} was converted without a tokenizer; convert it with --tokenizer")
    return place(stored, tokenizer, stage=options["stage"], tensor=options["tensor"], dtype=options["dtype"])


def place(
    stored: StoredModel, tokenizer: Tokenizer, *, stage: int = 1, tensor: int = 1, dtype: str | None = None
) -> LoadedModel:
    """A stored model on the first `stage * tensor` devices, weights and cache in `dtype` (None: as it computes).

    Quantised feed-forward layers stay in 8 bits. Raises ValueError when there are fewer devices, and when the model
    does not divide.
    """
    devices = jax.devices()
    if stage * tensor > len(devices):
        raise ValueError(f"--stage={stage} --tensor={tensor}, but there are {len(devices)} devices")
    mesh = make_mesh(MeshConfig(fsdp=1, stage=stage, tensor=tensor), devices[: stage * tensor])
    dtype = dtype or stored.compute.compute_dtype
    compute = dataclasses.replace(resolve_compute(stored.compute, mesh), param_dtype=dtype, compute_dtype=dtype)
    layout = Layout.of(mesh, sequence_parallel=False)
    layout.check_divides(stored.model.sizes, ("VD", "DHE", "DKE", "DF"))
    declare = declare_staged if stage > 1 else functools.partial(Llama, layers_apart=True)
    module = declare(stored.model, compute, layout, quantized=stored.quantized)
    return LoadedModel(stored, module, stored.restore_apart(module, mesh), mesh, tokenizer)


def pages_that_fit(model: LoadedModel, page_size: int, most: int) -> int:
    """Pages for a device's free memory, where the device tells how much that is, and `most` at most.

    Raises ValueError when there is room for none.
    """
    stats = model.mesh.devices.flat[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return most
    c, itemsize = model.stored.model, jnp.dtype(model.module.compute.compute_dtype).itemsize
    page = 2 * c.num_layers * page_size * c.num_kv_heads * c.head_dim * itemsize // model.mesh.devices.size
    free = stats["bytes_limit"] - stats["bytes_in_use"]
    pages = min(most, int(MEMORY_FOR_PAGES * free) // page)
    if pages < 1:
        raise ValueError(f"the weights leave {free / 2**30:.1f} GiB of a device's memory, too little for a cache")
    return pages


def generator_of(model: LoadedModel, lengths: Sequence[int], num_slots: int = 32) -> Generator:
    """A generator for rows of these lengths in tokens, prompts and answers, with pages for `num_slots` of the longest.

    Raises ValueError when one is longer than the model's positions.
    """
    longest, slots, page_size = max(lengths), min(num_slots, len(lengths)), SchedulerConfig().page_size
    config = SchedulerConfig(num_slots=slots, num_pages=slots * -(-longest // page_size), max_length=longest)
    return Generator(model.engine(config), model.tokenizer)

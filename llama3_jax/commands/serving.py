"""What the commands that generate have in common: their flags, and a generator for the model they name."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.engine import Engine
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.request import SamplingConfig
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.train.load import TrainedModel, load_for_generation

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
    flags.DEFINE_integer("tensor", 1, "devices to split the model over", flag_values=values)
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


def load(options: Mapping[str, Any]) -> tuple[TrainedModel, Tokenizer]:
    """The model that the flags name, over `--tensor` devices, and its tokenizer, without which nothing can be written.

    Raises ValueError when there are fewer devices, or no tokenizer.
    """
    count, devices = options["tensor"], jax.devices()
    if not 1 <= count <= len(devices):
        raise ValueError(f"--tensor={count}, but there are {len(devices)} devices")
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=count), devices[:count])
    trained = load_for_generation(options["checkpoint"], mesh, options["step"], options["dtype"])
    if trained.tokenizer is None:
        raise ValueError(f"{options['checkpoint']} was converted without a tokenizer; convert it with --tokenizer")
    return trained, trained.tokenizer


def generator_of(trained: TrainedModel, lengths: Sequence[int], num_slots: int = 32) -> Generator:
    """A generator for rows of these lengths in tokens, prompts and answers, with pages for `num_slots` of the longest.

    Raises ValueError when one is longer than the model's positions.
    """
    longest, slots, page_size = max(lengths), min(num_slots, len(lengths)), SchedulerConfig().page_size
    config = SchedulerConfig(num_slots=slots, num_pages=slots * -(-longest // page_size), max_length=longest)
    return Generator(Engine(trained.model, trained.params, trained.mesh, config), trained.tokenizer)

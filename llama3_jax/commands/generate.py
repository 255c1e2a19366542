"""`llama3 generate`: text from a trained model."""

import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from llama3_jax.commands.serving import generator_of
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.infer.request import Request, SamplingConfig
from llama3_jax.train.load import load_for_generation

SUMMARY = "sample text from a trained model"
MANUAL = """
Continues --prompt with the model in --checkpoint (a run's folder, or one of its checkpoint folders), on one device.
Greedy with --temperature=0. The same seed gives the same text.
"""
EXAMPLE = 'llama3 generate --checkpoint=runs/quickstart/model --prompt="def read(path):" --temperature=0.8'


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("checkpoint", None, "a run's folder", flag_values=values, required=True)
    flags.DEFINE_string("prompt", "", "text to continue", flag_values=values)
    flags.DEFINE_integer("step", None, "checkpoint to use instead of the newest", flag_values=values)
    flags.DEFINE_integer("max_new_tokens", 128, "most tokens to write", flag_values=values)
    flags.DEFINE_float("temperature", 0.6, "0 is greedy", flag_values=values)
    flags.DEFINE_float("top_p", 0.9, "probability mass of the nucleus", flag_values=values)
    flags.DEFINE_integer("seed", 0, "seed of the draws", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trained = load_for_generation(options["checkpoint"], mesh, options["step"])
    if trained.tokenizer is None:
        raise ValueError(f"{options['checkpoint']} was converted without a tokenizer; convert it with --tokenizer")
    names = ("max_new_tokens", "temperature", "top_p", "seed")
    sampling = SamplingConfig(**{name: options[name] for name in names}, stop_ids=trained.tokenizer.stop_ids)
    prompt = trained.tokenizer.encode(options["prompt"], bos=True)
    generator = generator_of(trained, mesh, [len(prompt) + sampling.max_new_tokens])
    sys.stdout.write(options["prompt"])
    for progress in generator.generate([Request(prompt=prompt, sampling=sampling)]):
        sys.stdout.write(progress.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0

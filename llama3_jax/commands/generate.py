"""`llama3 generate`: text from a trained model."""

import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.engine import Engine
from llama3_jax.infer.sampling import SamplingConfig
from llama3_jax.train.load import load_model

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
    names = ("max_new_tokens", "temperature", "top_p", "seed")
    sampling = SamplingConfig(**{name: options[name] for name in names})
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trained = load_model(options["checkpoint"], mesh, options["step"])
    tokenizer, stored = trained.tokenizer, trained.stored
    if tokenizer is None:
        raise ValueError(f"{options['checkpoint']} was converted without a tokenizer; convert it with --tokenizer")
    engine = Engine(stored.model, trained.graphdef, trained.params, stored.compute.compute_dtype)
    prompt = tokenizer.encode(options["prompt"], bos=True)
    sys.stdout.write(options["prompt"])
    with jax.set_mesh(mesh):
        for text in _stream(tokenizer, engine, prompt, sampling):
            sys.stdout.write(text)
            sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _stream(tokenizer: Tokenizer, engine: Engine, prompt: list[int], sampling: SamplingConfig):
    """Text as it is written; a character whose bytes are not all there yet waits for them."""
    ids: list[int] = []
    shown = ""
    for token_B in engine.generate([prompt], sampling, tokenizer.stop_ids):
        if int(token_B[0]) in tokenizer.stop_ids:
            break
        ids.append(int(token_B[0]))
        text = tokenizer.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    yield tokenizer.decode(ids)[len(shown) :]

"""`llama3 evaluate`: held-out bits per byte, beside baselines on the same text."""

import json
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.core.paths import path_of
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.token_store import TokenStore
from llama3_jax.evaluate.baselines import bits_per_byte, documents
from llama3_jax.train.gradients import make_sums
from llama3_jax.train.held_out import held_out_batches, make_held_out
from llama3_jax.train.load import load_model
from llama3_jax.train.objective import make_next_token_objective

SUMMARY = "held-out bits per byte of a trained model, beside three baselines"
MANUAL = """
Reads the whole held-out text of the run in --checkpoint and prints its bits per byte under the model and under three
baselines on the same text: unigram and Kneser-Ney bigram over the same training tokens, and xz given nothing. Bits per
byte compare models with different tokenizers. Writes the table as JSON into the run's folder too.

Converted weights have no run: give the text, as a token store of the model's own tokenizer, with --held_out.
"""
EXAMPLE = "llama3 evaluate --checkpoint=runs/quickstart/model"


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("checkpoint", None, "a run's folder", flag_values=values, required=True)
    flags.DEFINE_integer("step", None, "checkpoint to use instead of the newest", flag_values=values)
    flags.DEFINE_string("held_out", None, "token store to read instead of the run's own", flag_values=values)
    flags.DEFINE_integer("sequence_length", None, "context in tokens (default: as last trained)", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    folder = options["checkpoint"]
    mesh = make_mesh(MeshConfig())
    trained = load_model(folder, mesh, options["step"])
    stored, tokenizer = trained.stored, trained.tokenizer
    if tokenizer is None:
        raise ValueError(f"{folder} was converted without a tokenizer; convert it with --tokenizer")
    path = options["held_out"] or (stored.config and stored.config.data.held_out)
    if not path:
        raise ValueError(f"{folder} was made without held-out text; give a token store with --held_out")
    held_out = TokenStore.open(path, expect_fingerprint=tokenizer.fingerprint)
    length = options["sequence_length"] or stored.run["sequence_length"]
    token_bytes_V = tokenizer.token_bytes()
    evaluate = make_held_out(make_sums(trained.graphdef, make_next_token_objective()), mesh, token_bytes_V)
    loss = evaluate(trained.params, held_out_batches(held_out, length))

    text = b"".join(tokenizer.decode_bytes(document[1:-1]) for document in documents(held_out))
    sources = stored.config.data.sources if stored.config else {}
    train = [TokenStore.open(path, expect_fingerprint=tokenizer.fingerprint) for path in sources.values()]
    table = {f"this model, {length} tokens of context": loss.bits_per_byte}
    table |= bits_per_byte(train, held_out, token_bytes_V, text)
    print(f"held-out text: {loss.bytes:,} bytes, {loss.tokens:,} tokens; bits per byte, lower is better")
    for name, bits in sorted(table.items(), key=lambda row: row[1]):
        print(f"  {name:<36} {bits:.3f}")
    result = {"bits_per_byte": table, "nats_per_token": loss.per_token}
    (path_of(folder) / "evaluation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0

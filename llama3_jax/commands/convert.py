"""`llama3 convert`: weights between Hugging Face's, Meta's and our own format."""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.model.llama import HERD
from llama3_jax.weights.convert import FORMATS, KEEP, QUANTIZE, Request, convert, prepare, prepare_named
from llama3_jax.weights.format import Options
from llama3_jax.weights.output import check_output
from llama3_jax.weights.report import describe
from llama3_jax.weights.tensor import DTYPES

SUMMARY = "turn weights of Hugging Face or Meta into a checkpoint, and back"
MANUAL = """
Reads the weights in --input, whose format is recognised by its files, and writes them to --output as

  hugging_face   config.json, safetensors, generation_config.json, tokenizer.json
  meta           params.json, consolidated.00.pth and one more per tensor-parallel shard, tokenizer.model
  llama3_jax     a checkpoint for `llama3 generate` and `llama3 evaluate`

Weights pass through one array at a time, so memory does not grow with the model. The output folder appears when all of
it is written. The tokenizer with the weights is converted, too; --tokenizer gives another, or one for a checkpoint.

--quantize=fp8 or int8 writes the feed-forward matrices of all layers but the first and the last in 8 bits, as Llama 3
is served: hugging_face holds fp8 in the form of the public checkpoints, llama3_jax holds both. `none` multiplies them
out. By default they stay what they are, where the format can hold it.

--dry_run prints every file, bytes, peak memory and time, and writes nothing; --input may then also be a member of the
herd by name.
"""
EXAMPLE = """
llama3 convert --input=Llama-3.2-1B --to=llama3_jax --output=runs/llama3_2_1b
llama3 convert --input=runs/mine --to=meta --shards=8 --dtype=bfloat16 --output=runs/mine_meta
llama3 convert --input=Llama-3.1-8B --to=hugging_face --quantize=fp8 --output=Llama-3.1-8B-FP8
llama3 convert --input=llama3_1_405b --to=meta --shards=8 --dry_run --disk_mb_per_s=900
"""


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("input", None, "folder of the weights", flag_values=values, required=True)
    flags.DEFINE_string("output", None, "folder to write", flag_values=values)
    flags.DEFINE_enum("to", None, list(FORMATS), "format to write", flag_values=values, required=True)
    flags.DEFINE_enum("dtype", KEEP, [KEEP, *DTYPES], "dtype to write", flag_values=values)
    flags.DEFINE_enum("quantize", KEEP, list(QUANTIZE), "8-bit feed-forward layers to write", flag_values=values)
    flags.DEFINE_string("tokenizer", None, "tokenizer file to write with the weights", flag_values=values)
    flags.DEFINE_integer("shards", 1, "tensor-parallel shards (to=meta)", flag_values=values)
    flags.DEFINE_float("file_gb", 5.0, "most GB of one file (to=hugging_face)", flag_values=values)
    flags.DEFINE_integer("step", None, "step of a run's checkpoint to convert", flag_values=values)
    flags.DEFINE_float(
        "rope_factor", None, "rotary scaling factor, where Meta's params.json leaves it open", flag_values=values
    )
    flags.DEFINE_boolean("overwrite", False, "replace an earlier conversion in --output", flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "print what would be done, and do nothing", flag_values=values)
    flags.DEFINE_float("disk_mb_per_s", None, "speed of the disk, for the time of --dry_run", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    request = Request(
        options=Options(**{name: options[name] for name in ("step", "rope_factor", "shards", "file_gb")}),
        **{name: options[name] for name in ("input", "output", "to", "dtype", "quantize", "tokenizer", "overwrite")},
    )
    if options["dry_run"]:
        known = request.input in HERD and not pathlib.Path(request.input).exists()
        conversion = prepare_named(request) if known else prepare(request)
        print(describe(conversion, request.to, options["disk_mb_per_s"]))
        return 0
    if request.output is None:
        raise ValueError("--output is required, for example --output=runs/converted")
    check_output(pathlib.Path(request.output), request.overwrite)
    conversion = prepare(request)
    for note in conversion.notes:
        print(f"note: {note}")
    convert(request, conversion)
    return 0

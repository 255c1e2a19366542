"""Meta's folders: `params.json` and `consolidated.NN.pth`, one per tensor-parallel rank, and `tokenizer.model`.

Each rank's file holds every tensor, split ones as that rank's part (`Spelling.split`): rows of projections that open a
block, columns of those that close it, rows of the vocabulary in the embedding and the head.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from llama3_jax.model.convert import META, Slot, Spelling
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.weights.format import Format, Opened, Options, Plan, read_json, write_json
from llama3_jax.weights.meta_params import read_params, write_params
from llama3_jax.weights.named import (
    NamedSink,
    NamedSource,
    PlannedFile,
    PlannedTensor,
    Shard,
    check_tensors,
    part_shape,
    same_matrix,
)
from llama3_jax.weights.pth import read_pth
from llama3_jax.weights.pth_writer import PthWriter
from llama3_jax.weights.tensor import FileTensor

IGNORED = ("rope.freqs",)  # a buffer of older releases
EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
HEAD_SPELLING: Spelling = META["head_DV"]


def _recognises(folder: pathlib.Path) -> bool:
    return (folder / "params.json").is_file() or any(folder.glob("consolidated.*.pth"))


def _open(folder: pathlib.Path, options: Options) -> Opened:
    files = sorted(folder.glob("consolidated.*.pth"))
    wanted = [f"consolidated.{rank:02}.pth" for rank in range(len(files))]
    if not files or [file.name for file in files] != wanted:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{folder} should hold consolidated.00.pth and so on without gaps; it has {found}")
    shards: list[Shard] = [read_pth(file) for file in files]
    tied = _is_tied(shards)
    read = lambda content: read_params(_nested(content), tied, options.rope_factor)
    config = read_json(folder / "params.json", read)
    if tied:
        shards = [{name: tensor for name, tensor in shard.items() if name != HEAD} for shard in shards]
    source = NamedSource(config, META, shards)
    check_tensors(source, folder, IGNORED)
    return Opened(source, folder)


def _nested(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return content.get("model", content)


def _is_tied(shards: list[Shard]) -> bool:
    """Meta's code knows no tied head: its files then repeat the embedding, or store it once under both names."""
    if not all(EMBEDDING in shard for shard in shards):
        return False  # said in a sentence when the tensors are checked
    if not any(HEAD in shard for shard in shards):
        return True
    if not all(HEAD in shard for shard in shards):
        return False
    return same_matrix(([shard[EMBEDDING] for shard in shards], [shard[HEAD] for shard in shards]))


def _plan(config: LlamaConfig, dtypes: Mapping[Slot, np.dtype], options: Options) -> list[PlannedFile]:
    write_params(config)  # refuses what the format cannot say before anything is written
    return [_shard(config, dtypes, rank, options.shards) for rank in range(options.shards)]


def _shard(config: LlamaConfig, dtypes: Mapping[Slot, np.dtype], rank: int, num_shards: int) -> PlannedFile:
    planned = []
    for slot, dtype in dtypes.items():
        spelling = META[slot.path]
        tensor = FileTensor(slot.named(spelling), dtype, part_shape(spelling, config, num_shards))
        planned.append(PlannedTensor(slot, tensor, rank, num_shards))
    if config.tied:
        first = planned[0]
        tensor = FileTensor(HEAD, first.tensor.dtype, first.tensor.shape, same_as=EMBEDDING)
        planned.append(PlannedTensor(first.slot, tensor, rank, num_shards))
    return PlannedFile(f"consolidated.{rank:02}.pth", tuple(planned))


def _begin(folder: pathlib.Path, plan: Plan) -> NamedSink:
    write_json(folder / "params.json", write_params(plan.config))
    if plan.tokenizer is not None:
        plan.tokenizer.save(folder / "tokenizer.model")
    return NamedSink(folder, plan.files, plan.config, META, PthWriter)


FORMAT = Format(_recognises, _open, _plan, _begin)

"""Hugging Face folders: `config.json`, safetensors in one file or in several with an index, tokenizer files."""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from llama3_jax.data.tokenizer_json import write_tokenizer_json
from llama3_jax.model.convert import HUGGING_FACE, Slot
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.weights.format import GIGABYTE, Format, Opened, Options, Plan, read_json, write_json
from llama3_jax.weights.hugging_face_config import (
    SpecialIds,
    read_config,
    read_grid,
    released_ids,
    write_config,
    write_generation_config,
)
from llama3_jax.weights.named import NamedSink, NamedSource, PlannedFile, PlannedTensor, check_tensors, same_matrix
from llama3_jax.weights.safetensors import SafetensorsWriter, read_safetensors
from llama3_jax.weights.tensor import FileTensor, StoredTensor

INDEX = "model.safetensors.index.json"
IGNORED = ("*.rotary_emb.inv_freq",)  # a buffer that old versions of `transformers` saved
EMBEDDING, HEAD = "embedding_VD", "head_DV"
BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def _recognises(folder: pathlib.Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", INDEX, "pytorch_model*.bin"))


def _open(folder: pathlib.Path, options: Options) -> Opened:
    del options
    config, quantized = read_json(folder / "config.json", lambda content: (read_config(content), read_grid(content)))
    tensors = tensors_of(folder)
    head = HUGGING_FACE[HEAD].name + ".weight"
    if config.tied and head in tensors:  # repeated by some writers; it must say the same
        embedding = HUGGING_FACE[EMBEDDING].name + ".weight"
        if embedding in tensors and not same_matrix(([tensors[embedding]], [tensors[head]])):
            raise ValueError(f"{folder}: tie_word_embeddings is true, but {head} differs from {embedding}")
        del tensors[head]
    source = NamedSource(config, HUGGING_FACE, [tensors], quantized)
    check_tensors(source, folder, IGNORED)
    return Opened(source, folder)


def tensors_of(folder: pathlib.Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder by name. Raises ValueError when there is none, or one twice."""
    tensors: dict[str, StoredTensor] = {}
    for file in _files(folder):
        found = read_safetensors(file)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise ValueError(f"tensor {twice[0]} is in {tensors[twice[0]].file} and in {file}")
        tensors |= found
    return tensors


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not (folder / INDEX).is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ValueError(f"{folder} has no .safetensors file (a pytorch_model.bin is not read)")
        return files
    names = read_json(folder / INDEX, lambda content: sorted(set(content["weight_map"].values())))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {missing[0]}, one of the {len(names)} files that {INDEX} names")
    return [folder / name for name in names]


def _plan(config: LlamaConfig, dtypes: Mapping[Slot, np.dtype], options: Options) -> list[PlannedFile]:
    groups: list[list[PlannedTensor]] = [[]]
    filled = 0
    for slot, dtype in dtypes.items():
        spelling = HUGGING_FACE[slot.path]
        tensor = FileTensor(slot.named(spelling), dtype, spelling.shape(config))
        if groups[-1] and filled + tensor.num_bytes > options.file_gb * GIGABYTE:
            groups.append([])
            filled = 0
        groups[-1].append(PlannedTensor(slot, tensor))
        filled += tensor.num_bytes
    if len(groups) == 1:
        return [PlannedFile("model.safetensors", tuple(groups[0]))]
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    return [PlannedFile(name, tuple(group)) for name, group in zip(names, groups, strict=True)]


def _begin(folder: pathlib.Path, plan: Plan) -> NamedSink:
    ids = released_ids(plan.config)
    if plan.tokenizer is not None:
        ids = SpecialIds(plan.tokenizer.bos_id, plan.tokenizer.stop_ids)
        _write_tokenizer(folder, plan)
    write_json(folder / "config.json", write_config(plan.config, plan.dtype, ids, plan.quantized))
    write_json(folder / "generation_config.json", write_generation_config(ids))
    if len(plan.files) > 1:
        write_json(folder / INDEX, _index(plan))
    return NamedSink(folder, plan.files, plan.config, HUGGING_FACE, SafetensorsWriter)


def _index(plan: Plan) -> dict[str, Any]:
    places = {planned.tensor.name: file.name for file in plan.files for planned in file.tensors}
    return {"metadata": {"total_size": sum(file.num_bytes for file in plan.files)}, "weight_map": places}


def _write_tokenizer(folder: pathlib.Path, plan: Plan) -> None:
    """Copies a `tokenizer.json` with what belongs to it; from another format one is made."""
    assert plan.tokenizer is not None and plan.tokenizer_file is not None
    if plan.tokenizer_file.suffix != ".json":
        write_tokenizer_json(plan.tokenizer, folder, plan.config.max_length)
        return
    for name in ("tokenizer.json", *BESIDE_TOKENIZER):
        file = plan.tokenizer_file if name == "tokenizer.json" else plan.tokenizer_file.with_name(name)
        if file.is_file():
            shutil.copyfile(file, folder / name)


FORMAT = Format(_recognises, _open, _plan, _begin, grids=("fp8",))

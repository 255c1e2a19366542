"""A Hugging Face folder of a RoBERTa encoder: `config.json`, safetensors, `tokenizer.json`; read and written.

Whatever would make `transformers` compute something else than our encoder does is refused by name, as for Llama
(weights/hugging_face_config.py). What else such folders hold is known and left: the masked-language head and the pooler
that pre-training leaves behind, and a buffer of positions.
"""

import fnmatch
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from llama3_jax.core.config import freeze
from llama3_jax.core.params import Params
from llama3_jax.model.roberta import RobertaConfig
from llama3_jax.model.roberta_names import (
    HEAD,
    SCHEME,
    from_hugging_face,
    is_prefixed,
    name_of,
    roberta_slots,
    to_hugging_face,
)
from llama3_jax.weights.format import read_json, write_json
from llama3_jax.weights.hugging_face import BESIDE_TOKENIZER, tensors_of
from llama3_jax.weights.named import contiguous
from llama3_jax.weights.output import check_output, whole_folder
from llama3_jax.weights.safetensors import SafetensorsWriter
from llama3_jax.weights.tensor import DTYPES, FileTensor

IGNORED = ("lm_head.*", "*pooler.*", "*.position_ids")
# Settings that must have this value where they are there; they are written, too.
FIXED = {
    "model_type": "roberta",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "type_vocab_size": 1,
}
# their name -> (our field, what `transformers` takes when it is absent; ... when it must be there)
FIELDS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", ...),
    "num_hidden_layers": ("num_layers", ...),
    "hidden_size": ("embed_dim", ...),
    "num_attention_heads": ("num_heads", ...),
    "intermediate_size": ("mlp_dim", ...),
    "max_position_embeddings": ("num_positions", ...),
    "pad_token_id": ("pad_id", 1),
    "layer_norm_eps": ("norm_eps", 1e-12),
}
SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 2}
TOKENIZER_FILES = ("tokenizer.json", *BESIDE_TOKENIZER)


class LoadedRoberta(NamedTuple):
    """Weights from a folder. `params` has no head where the folder has none of as many labels as were asked for."""

    config: RobertaConfig
    params: Params  # NumPy arrays, dtypes as stored
    tokenizer: pathlib.Path | None  # tokenizer.json, where there is one

    @property
    def has_head(self) -> bool:
        """Whether the folder held a classifier's head."""
        return "head" in self.params


def read_roberta(folder: str | pathlib.Path, num_labels: int | None = None) -> LoadedRoberta:
    """Reads an encoder, and its classification head unless `num_labels` differs from what that has.

    Raises FileNotFoundError; ValueError naming file and tensor or setting for what is missing, unknown or does not fit.
    """
    folder = pathlib.Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; it should be a folder of Hugging Face weights")
    tensors = tensors_of(folder)
    stored = tensors.get("classifier.out_proj.weight")
    labels_there = stored.shape[0] if stored is not None and stored.shape else 0
    wanted = labels_there if num_labels is None else num_labels
    config = read_json(folder / "config.json", lambda content: read_config(content, wanted))
    keeps_head = bool(wanted) and wanted == labels_there
    _check_names(tensors.keys(), config, keeps_head, folder)
    found = {name: tensor.open() for name, tensor in tensors.items() if not _is_ignored(name)}
    try:
        params = from_hugging_face(found, config, head=keeps_head)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    tokenizer = folder / "tokenizer.json"
    return LoadedRoberta(config, params, tokenizer if tokenizer.is_file() else None)


def _is_ignored(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in IGNORED)


def _check_names(names: Any, config: RobertaConfig, keeps_head: bool, folder: pathlib.Path) -> None:
    prefixed = is_prefixed(set(names))
    known = {name_of(slot, prefixed=prefixed) for slot in roberta_slots(config)}
    if not keeps_head:
        known |= {spelling.name for path, spelling in SCHEME.items() if path.startswith(HEAD)}
    for name in sorted(names):
        if name not in known and not _is_ignored(name):
            raise ValueError(f"{folder} has a tensor {name}, which a RoBERTa encoder of its config has not")


def read_config(content: Mapping[str, Any], num_labels: int) -> RobertaConfig:
    """Our config of a `config.json`. Raises ValueError naming a setting that does not fit."""
    for name, value in FIXED.items():
        found = content.get(name, value)
        if found != value:
            raise ValueError(f"{name} is {found!r}; this encoder has {value!r}")
    values: dict[str, Any] = {"num_labels": num_labels}
    for name, (field, default) in FIELDS.items():
        found = content.get(name, default)
        if found is ... or found is None:
            raise ValueError(f"{name} is missing")
        values[field] = found
    return freeze(RobertaConfig, values, "the encoder's shape")


def write_config(config: RobertaConfig, dtype: str) -> dict[str, Any]:
    """A `config.json` that `transformers` reads."""
    kind = "RobertaForSequenceClassification" if config.num_labels else "RobertaModel"
    content: dict[str, Any] = {"architectures": [kind]} | FIXED | SPECIAL_IDS
    content |= {name: getattr(config, field) for name, (field, _) in FIELDS.items()}
    content |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "torch_dtype": dtype}
    if config.num_labels:
        names = {str(label): f"LABEL_{label}" for label in range(config.num_labels)}
        content |= {"id2label": names, "label2id": {name: int(label) for label, name in names.items()}}
        content["problem_type"] = "regression" if config.num_labels == 1 else "single_label_classification"
    return content


def write_roberta(
    folder: str | pathlib.Path,
    config: RobertaConfig,
    params: Params,
    *,
    dtype: str = "float32",
    tokenizer: str | pathlib.Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes `config.json`, `model.safetensors` and, with what lies beside it, a `tokenizer.json`.

    The folder appears when all of it is written. Raises ValueError when something is there already and `overwrite` is
    not given.
    """
    check_output(pathlib.Path(folder), overwrite)
    numpy_dtype = DTYPES[dtype][0]
    tensors = to_hugging_face(params, config)
    with whole_folder(pathlib.Path(folder), overwrite) as partial:
        write_json(partial / "config.json", write_config(config, dtype))
        planned = [FileTensor(name, numpy_dtype, array.shape) for name, array in tensors.items()]
        writer = SafetensorsWriter(partial / "model.safetensors", planned)
        for array in tensors.values():
            writer.append(contiguous(array, numpy_dtype))
        writer.close()
        for name in TOKENIZER_FILES if tokenizer else ():
            beside = pathlib.Path(str(tokenizer)).with_name(name)
            if beside.is_file():
                shutil.copyfile(beside, partial / name)

"""The encoder's arrays under Hugging Face's names: a table, read by the letters as the decoder's (model/convert.py).

`transformers.RobertaModel` has the names as they stand here; in a model with a head (`RobertaForMaskedLM`,
`RobertaForSequenceClassification`) the encoder's begin with `roberta.`.
"""

from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from llama3_jax.core.params import Params
from llama3_jax.model.convert import Slot, Spelling, to_ours, to_theirs
from llama3_jax.model.roberta import RobertaConfig

ENCODER, HEAD = "roberta.", "head/"  # the prefix of names in a model with a head; of our paths of the head's arrays

# our path -> Hugging Face's name and dims
_TABLE: dict[str, tuple[str, str]] = {
    "embedding_VD": ("embeddings.word_embeddings.weight", "V,D"),
    "positions_QD": ("embeddings.position_embeddings.weight", "Q,D"),
    "type_M": ("embeddings.token_type_embeddings.weight", "1,M"),
    "norm/scale_M": ("embeddings.LayerNorm.weight", "M"),
    "norm/bias_M": ("embeddings.LayerNorm.bias", "M"),
    "layers/attention/wq_DHE": ("encoder.layer.{}.attention.self.query.weight", "HE,D"),
    "layers/attention/bias_q_HE": ("encoder.layer.{}.attention.self.query.bias", "HE"),
    "layers/attention/wk_DHE": ("encoder.layer.{}.attention.self.key.weight", "HE,D"),
    "layers/attention/bias_k_HE": ("encoder.layer.{}.attention.self.key.bias", "HE"),
    "layers/attention/wv_DHE": ("encoder.layer.{}.attention.self.value.weight", "HE,D"),
    "layers/attention/bias_v_HE": ("encoder.layer.{}.attention.self.value.bias", "HE"),
    "layers/attention/wo_HED": ("encoder.layer.{}.attention.output.dense.weight", "D,HE"),
    "layers/attention/bias_o_M": ("encoder.layer.{}.attention.output.dense.bias", "M"),
    "layers/attention_norm/scale_M": ("encoder.layer.{}.attention.output.LayerNorm.weight", "M"),
    "layers/attention_norm/bias_M": ("encoder.layer.{}.attention.output.LayerNorm.bias", "M"),
    "layers/mlp/w1_DF": ("encoder.layer.{}.intermediate.dense.weight", "F,D"),
    "layers/mlp/bias_1_F": ("encoder.layer.{}.intermediate.dense.bias", "F"),
    "layers/mlp/w2_FD": ("encoder.layer.{}.output.dense.weight", "D,F"),
    "layers/mlp/bias_2_M": ("encoder.layer.{}.output.dense.bias", "M"),
    "layers/mlp_norm/scale_M": ("encoder.layer.{}.output.LayerNorm.weight", "M"),
    "layers/mlp_norm/bias_M": ("encoder.layer.{}.output.LayerNorm.bias", "M"),
    "head/dense_DU": ("classifier.dense.weight", "U,D"),
    "head/bias_U": ("classifier.dense.bias", "U"),
    "head/out_UL": ("classifier.out_proj.weight", "L,U"),
    "head/bias_L": ("classifier.out_proj.bias", "L"),
}
SCHEME: Mapping[str, Spelling] = {path: Spelling(name, dims, None, "") for path, (name, dims) in _TABLE.items()}


def roberta_slots(config: RobertaConfig, *, head: bool = True) -> list[Slot]:
    """Every array of the model, or of the encoder alone, in the order of the table, layers in a row."""
    slots = []
    for path in _TABLE:
        layers = range(config.num_layers) if path.startswith("layers/") else (None,)
        if (head and config.num_labels) or not path.startswith(HEAD):
            slots += [Slot(path, layer, path.rpartition("_")[2]) for layer in layers]
    return slots


def name_of(slot: Slot, *, prefixed: bool) -> str:
    """The name of an array in a model with a head, or without (`prefixed` False)."""
    name = slot.named(SCHEME[slot.path])
    return ENCODER + name if prefixed and not slot.path.startswith(HEAD) else name


def is_prefixed(names: Mapping[str, object] | set[str]) -> bool:
    """Whether these are the names of a model with a head."""
    return any(name.startswith(ENCODER) for name in names)


def from_hugging_face(tensors: Mapping[str, np.ndarray], config: RobertaConfig, *, head: bool = True) -> Params:
    """Our parameters from a state dict of `transformers`, dtypes kept; without the head's if `head` is False.

    Raises ValueError naming a tensor that is missing or has another shape than `config` asks for.
    """
    prefixed, arrays = is_prefixed(tensors), {}
    for slot in roberta_slots(config, head=head):
        name, spelling = name_of(slot, prefixed=prefixed), SCHEME[slot.path]
        if name not in tensors:
            raise ValueError(f"the weights have no tensor {name}")
        matrix = np.asarray(tensors[name])
        if matrix.shape != spelling.shape(config):
            raise ValueError(f"tensor {name} has shape {matrix.shape}; the config needs {spelling.shape(config)}")
        arrays.setdefault(slot.path, []).append(to_ours(matrix, spelling, slot, config))
    stacked = {path: np.stack(rows) if path.startswith("layers/") else rows[0] for path, rows in arrays.items()}
    return traverse_util.unflatten_dict(stacked, sep="/")


def to_hugging_face(params: Params, config: RobertaConfig) -> dict[str, np.ndarray]:
    """A state dict for `RobertaForSequenceClassification`, or for `RobertaModel` without a head; dtypes kept."""
    flat = {path: np.asarray(array) for path, array in traverse_util.flatten_dict(params, sep="/").items()}
    tensors = {}
    for slot in roberta_slots(config):
        array = flat[slot.path] if slot.layer is None else flat[slot.path][slot.layer]
        matrix = to_theirs(array, SCHEME[slot.path], slot, config)
        tensors[name_of(slot, prefixed=bool(config.num_labels))] = np.ascontiguousarray(matrix)
    return tensors

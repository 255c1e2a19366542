"""Other people's weights: a table of names and dim letters beside the model, and nothing per layer in code.

Hugging Face stores every matrix as [outputs, inputs] with heads flattened, and turns the two halves of a head as we do.
A row of `HUGGING_FACE` says where an array lives there and which dims its flattened matrix has, in order; reshaping and
transposing by letters does the rest, both ways.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from llama3_jax.core.params import Params, letters_of
from llama3_jax.model.llama import Llama, LlamaConfig

# our path -> (their name, {} being the layer number; their dims in order; how many of those the first matrix dim holds)
HUGGING_FACE: dict[str, tuple[str, str, int]] = {
    "embedding_VD": ("model.embed_tokens.weight", "VD", 1),
    "layers/attention_norm/scale_M": ("model.layers.{}.input_layernorm.weight", "M", 1),
    "layers/attention/wq_DHE": ("model.layers.{}.self_attn.q_proj.weight", "HED", 2),
    "layers/attention/wk_DKE": ("model.layers.{}.self_attn.k_proj.weight", "KED", 2),
    "layers/attention/wv_DKE": ("model.layers.{}.self_attn.v_proj.weight", "KED", 2),
    "layers/attention/wo_HED": ("model.layers.{}.self_attn.o_proj.weight", "DHE", 1),
    "layers/mlp_norm/scale_M": ("model.layers.{}.post_attention_layernorm.weight", "M", 1),
    "layers/mlp/w1_DF": ("model.layers.{}.mlp.gate_proj.weight", "FD", 1),
    "layers/mlp/w3_DF": ("model.layers.{}.mlp.up_proj.weight", "FD", 1),
    "layers/mlp/w2_FD": ("model.layers.{}.mlp.down_proj.weight", "DF", 1),
    "norm/scale_M": ("model.norm.weight", "M", 1),
    "head_DV": ("lm_head.weight", "VD", 1),
}


def from_hugging_face(tensors: Mapping[str, np.ndarray], config: LlamaConfig) -> Params:
    """Our parameters from a state dict of `transformers.LlamaForCausalLM`, dtypes kept.

    Raises ValueError naming a tensor that is missing or has another shape than `config` asks for.
    """
    flat = {}
    for path, letters in _letters(config).items():
        name, theirs, _ = HUGGING_FACE[path]
        if letters.startswith("N"):
            layers = [_ours(tensors, name.format(i), theirs, letters[1:], config) for i in range(config.num_layers)]
            flat[path] = np.stack(layers)
        else:
            flat[path] = _ours(tensors, name, theirs, letters, config)
    return traverse_util.unflatten_dict(flat, sep="/")


def to_hugging_face(params: Params, config: LlamaConfig) -> dict[str, np.ndarray]:
    """A state dict for `transformers.LlamaForCausalLM`, dtypes kept; a tied head is not repeated."""
    tensors = {}
    for path, array in _flatten(params).items():
        letters, (name, theirs, split) = _letters(config)[path], HUGGING_FACE[path]
        array = np.asarray(array)
        layers = array if letters.startswith("N") else array[None]
        for number, layer in enumerate(layers):
            tensors[name.format(number)] = _theirs(layer, letters.removeprefix("N"), theirs, split)
    return tensors


def _letters(config: LlamaConfig) -> dict[str, str]:
    return {str(path): str(letters) for path, letters in _flatten(letters_of(Llama(config))).items()}


def _flatten(tree: Params) -> dict[Any, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))


def _ours(tensors: Mapping[str, np.ndarray], name: str, theirs: str, ours: str, config: LlamaConfig) -> np.ndarray:
    if name not in tensors:
        raise ValueError(f"the weights have no tensor {name}")
    shape = tuple(config.sizes[letter] for letter in theirs)
    array = np.asarray(tensors[name])
    if array.size != math.prod(shape):
        raise ValueError(f"tensor {name} has shape {array.shape}; the config needs {shape} ({theirs})")
    return array.reshape(shape).transpose([theirs.index(letter) for letter in ours])


def _theirs(array: np.ndarray, ours: str, theirs: str, split: int) -> np.ndarray:
    array = array.transpose([ours.index(letter) for letter in theirs])
    rows = math.prod(array.shape[:split])
    return np.ascontiguousarray(array if array.ndim == 1 else array.reshape(rows, -1))

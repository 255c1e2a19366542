"""Other people's weights: a table of names and dim letters beside the model, and nothing per layer in code.

Both schemes store every matrix as [outputs, inputs] with heads flattened. Hugging Face turns the two halves of a head,
as we do; Meta turns neighbours, so the outputs of its query and key projections come in another order. Written out, our
head dim E is XP, halves before pairs, and Meta's is PX: with those letters in the table the permutation is one more
transpose, and reshaping by letters does everything, both ways.

Of a model with 8-bit feed-forward layers (model/quantized.py) the rows are arrays and their scales, too. Only Hugging
Face's public FP8 checkpoints have names for them.

Letters: X the two of a rotary pair, P pairs of a head, 1 a dim of one; the others are those of `core/sharding.py`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from flax import traverse_util

from llama3_jax.core.params import Params, letters_of
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.model.quantized import QUANTIZED, is_quantized


class Sized(Protocol):
    """A model's config, for what follows from letters alone."""

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every dim letter that the parameters use."""
        ...

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        ...


@dataclasses.dataclass(frozen=True)
class Spelling:
    """How a scheme stores one of our arrays."""

    name: str  # {} is the layer number
    dims: str  # letters of its matrix, a comma between the two dims
    split: int | None  # the matrix dim that Meta's tensor-parallel shards divide; None: every shard has all of it
    suffix: str = ".weight"

    def shape(self, config: Sized) -> tuple[int, ...]:
        """Shape of the whole matrix."""
        sizes = _sizes(config)
        return tuple(math.prod(sizes[letter] for letter in dim) for dim in self.dims.split(","))


@dataclasses.dataclass(frozen=True)
class Slot:
    """One array of one layer, or one array outside the layers: the unit in which weights are converted."""

    path: str
    layer: int | None
    letters: str  # ours, without N

    def named(self, spelling: Spelling) -> str:
        """Its name in a scheme."""
        return spelling.name.format(self.layer) + spelling.suffix

    def shape(self, config: Sized) -> tuple[int, ...]:
        """Our shape, without N."""
        return tuple(config.sizes[letter] for letter in self.letters)


# our path -> Hugging Face's name and dims, Meta's name and dims, the dim that Meta's shards split; in file order
_TABLE: dict[str, tuple[str, str, str, str, int | None]] = {
    "embedding_VD": ("model.embed_tokens", "V,D", "tok_embeddings", "V,D", 0),
    "layers/attention_norm/scale_M": ("model.layers.{}.input_layernorm", "M", "layers.{}.attention_norm", "M", None),
    "layers/attention/wq_DHE": ("model.layers.{}.self_attn.q_proj", "HE,D", "layers.{}.attention.wq", "HPX,D", 0),
    "layers/attention/wk_DKE": ("model.layers.{}.self_attn.k_proj", "KE,D", "layers.{}.attention.wk", "KPX,D", 0),
    "layers/attention/wv_DKE": ("model.layers.{}.self_attn.v_proj", "KE,D", "layers.{}.attention.wv", "KE,D", 0),
    "layers/attention/wo_HED": ("model.layers.{}.self_attn.o_proj", "D,HE", "layers.{}.attention.wo", "D,HE", 1),
    "layers/mlp_norm/scale_M": ("model.layers.{}.post_attention_layernorm", "M", "layers.{}.ffn_norm", "M", None),
    "layers/mlp/w1_DF": ("model.layers.{}.mlp.gate_proj", "F,D", "layers.{}.feed_forward.w1", "F,D", 0),
    "layers/mlp/w3_DF": ("model.layers.{}.mlp.up_proj", "F,D", "layers.{}.feed_forward.w3", "F,D", 0),
    "layers/mlp/w2_FD": ("model.layers.{}.mlp.down_proj", "D,F", "layers.{}.feed_forward.w2", "D,F", 1),
    "norm/scale_M": ("model.norm", "M", "norm", "M", None),
    "head_DV": ("lm_head", "V,D", "output", "V,D", 0),
}

# path of a feed-forward matrix -> of its 8-bit rows and of their scales
ROWS = {
    f"layers/mlp/{matrix}": (f"layers/mlp/{values}", f"layers/mlp/{scales}")
    for matrix, (values, scales) in QUANTIZED.items()
}
MATRIX_OF_ROWS = {path: matrix for matrix, paths in ROWS.items() for path in paths}
SCALES = {scales for _, scales in ROWS.values()}

Scheme = Mapping[str, Spelling]
_PLAIN: Scheme = {path: Spelling(name, dims, split) for path, (name, dims, _, _, split) in _TABLE.items()}
HUGGING_FACE: Scheme = {
    **_PLAIN,
    **{values: _PLAIN[matrix] for matrix, (values, _) in ROWS.items()},
    **{
        scales: Spelling(_PLAIN[matrix].name, f"{scales[-1]},1", None, ".weight_scale")
        for matrix, (_, scales) in ROWS.items()
    },
}
META: Scheme = {path: Spelling(name, dims, split) for path, (_, _, name, dims, split) in _TABLE.items()}


def slots(config: LlamaConfig, quantized: str | None = None) -> list[Slot]:
    """Every array of the model, layer by layer: the order in which files list them.

    With `quantized`, a grid of ops/quant.py, of the model that has feed-forward layers of such rows.
    """
    found = _plain_slots(config)
    return found if quantized is None else [slot for plain in found for slot in _in_rows(plain, config)]


def matrix_of(slot: Slot) -> Slot:
    """The matrix whose rows, or whose rows' scales, this array holds."""
    return _in_layer(MATRIX_OF_ROWS[slot.path], slot.layer)


def rows_of(matrix: Slot) -> tuple[Slot, Slot]:
    """The arrays that hold a matrix's 8-bit rows and their scales."""
    values, scales = ROWS[matrix.path]
    return _in_layer(values, matrix.layer), _in_layer(scales, matrix.layer)


def _in_layer(path: str, layer: int | None) -> Slot:
    """The slot of a path whose name ends in its letters."""
    return Slot(path, layer, path.rpartition("_")[2])


def _in_rows(slot: Slot, config: LlamaConfig) -> tuple[Slot, ...]:
    quantized = slot.path in ROWS and slot.layer is not None and is_quantized(slot.layer, config.num_layers)
    return rows_of(slot) if quantized else (slot,)


def _plain_slots(config: LlamaConfig) -> list[Slot]:
    letters = _letters(config)
    found: list[Slot] = []
    for in_layers, paths in itertools.groupby(filter(letters.get, _TABLE), lambda path: letters[path][0] == "N"):
        group, layers = list(paths), range(config.num_layers) if in_layers else (None,)
        found += [Slot(path, layer, letters[path].removeprefix("N")) for layer in layers for path in group]
    return found


def to_ours(matrix: np.ndarray, spelling: Spelling, slot: Slot, config: Sized) -> np.ndarray:
    """Our array of a whole matrix of another scheme: a view, except that Meta's rotary pairs are put in order first."""
    dims = _letters_of_dims(spelling)
    split = _reordered(matrix, dims, dims.replace("PX", "XP"), config)
    whole = dims.replace("PX", "E")
    return _reordered(split, whole, slot.letters, config)


def to_theirs(array: np.ndarray, spelling: Spelling, slot: Slot, config: Sized) -> np.ndarray:
    """The whole matrix of another scheme of our array: a view, except that Meta's rotary pairs are ordered first."""
    dims = _letters_of_dims(spelling)
    if "PX" in dims:
        array = _reordered(array, slot.letters.replace("E", "XP"), slot.letters.replace("E", "PX"), config)
    whole = dims.replace("PX", "E")
    return _reordered(array, slot.letters, whole, config).reshape(spelling.shape(config))


def from_hugging_face(tensors: Mapping[str, np.ndarray], config: LlamaConfig) -> Params:
    """Our parameters from a state dict of `transformers.LlamaForCausalLM`, dtypes kept.

    Raises ValueError naming a tensor that is missing or has another shape than `config` asks for.
    """
    layers: dict[str, list[np.ndarray]] = {}
    for slot in slots(config):
        spelling = HUGGING_FACE[slot.path]
        name, shape = slot.named(spelling), spelling.shape(config)
        if name not in tensors:
            raise ValueError(f"the weights have no tensor {name}")
        matrix = np.asarray(tensors[name])
        if matrix.shape != shape:
            raise ValueError(f"tensor {name} has shape {matrix.shape}; the config needs {shape}")
        layers.setdefault(slot.path, []).append(to_ours(matrix, spelling, slot, config))
    letters = _letters(config)
    flat = {path: np.stack(arrays) if letters[path][0] == "N" else arrays[0] for path, arrays in layers.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def to_hugging_face(params: Params, config: LlamaConfig) -> dict[str, np.ndarray]:
    """A state dict for `transformers.LlamaForCausalLM`, dtypes kept; a tied head is not repeated."""
    flat = {path: np.asarray(array) for path, array in _flatten(params).items()}
    tensors = {}
    for slot in slots(config):
        spelling = HUGGING_FACE[slot.path]
        array = flat[slot.path] if slot.layer is None else flat[slot.path][slot.layer]
        tensors[slot.named(spelling)] = np.ascontiguousarray(to_theirs(array, spelling, slot, config))
    return tensors


def _letters_of_dims(spelling: Spelling) -> str:
    return spelling.dims.replace(",", "").replace("1", "")


def _reordered(array: np.ndarray, letters: str, wanted: str, config: Sized) -> np.ndarray:
    """The elements of `array`, laid out as `letters`, as an array of dims `wanted` (the same letters)."""
    sizes = _sizes(config)
    return array.reshape([sizes[letter] for letter in letters]).transpose([letters.index(letter) for letter in wanted])


def _sizes(config: Sized) -> dict[str, int]:
    return config.sizes | {"X": 2, "P": config.head_dim // 2, "1": 1}


@functools.cache
def _letters(config: LlamaConfig) -> dict[str, str]:
    return {str(path): str(letters) for path, letters in _flatten(letters_of(Llama(config))).items()}


def _flatten(tree: Params) -> dict[Any, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))

"""Meta's `params.json`, to and from our config.

Two things are not in it. The width of the feed-forward layers is a formula (`mlp_dim`). And `use_scaled_rope` says that
rotary frequencies are scaled but not by how much: Meta's reference code has 8 written into it (llama-models 0.3.0,
llama3/model.py), which is right for 3.1 and 3.3 and wrong for the 1B and 3B of 3.2, whose factor is 32 (llama-models
issues 166 and 241). So the factor comes, in this order, from whoever asks for the conversion, from a key
`rope_scaling_factor` (we write it; Meta's code passes over keys it does not know), or from the shape when that is one
of the herd's. Otherwise it is refused: a guess would show only past 8,192 positions.
"""

from collections.abc import Mapping
from typing import Any

from llama3_jax.core.config import freeze
from llama3_jax.model.layers import RopeScaling
from llama3_jax.model.llama import HERD, LlamaConfig

# their name -> our field
FIELDS = {
    "dim": "embed_dim",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "n_kv_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
    "norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
}
# (ffn_dim_multiplier, multiple_of) of the releases, in an order that gives each model the pair it was released with
RELEASED_PAIRS = ((1.5, 256), (1.0, 256), (1.3, 4096), (1.2, 4096), (1.3, 1024))
OTHER_PARTS = {"quantization_args": None, "lora_args": None, "vision_chunk_size": -1, "moe_args": None}
LENGTH, SCALED_LENGTH = 8192, 131_072
REFERENCE_SCALING = RopeScaling(factor=8.0)  # what Meta's reference code computes, whatever the file says


def mlp_dim(embed_dim: int, multiplier: float | None, multiple_of: int) -> int:
    """Width of the feed-forward layers, computed as Meta's reference code does."""
    hidden = int(2 * (4 * embed_dim) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


def read_params(content: Mapping[str, Any], tied: bool, rope_factor: float | None = None) -> LlamaConfig:
    """Our config of a `params.json`. Whether the head is tied is seen in the weights, not here.

    `rope_factor` is the factor of the rotary scaling where the file only says that there is one. Raises ValueError
    naming a setting that is missing or that no text model has.
    """
    for name, value in OTHER_PARTS.items():
        if content.get(name, value) not in (value, None):
            raise ValueError(f"{name} is {content[name]!r}: only plain text models are converted")
    missing = [name for name in (*FIELDS, "multiple_of") if content.get(name) is None and name != "n_kv_heads"]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    values: dict[str, Any] = {field: content.get(name) for name, field in FIELDS.items()}
    values["num_kv_heads"] = values["num_kv_heads"] or values["num_heads"]
    values["head_dim"] = values["embed_dim"] // values["num_heads"]
    values["mlp_dim"] = mlp_dim(values["embed_dim"], content.get("ffn_dim_multiplier"), content["multiple_of"])
    scaled = bool(content.get("use_scaled_rope", False))
    values["max_length"] = content.get("max_position_embeddings", SCALED_LENGTH if scaled else LENGTH)
    if scaled:
        factor = rope_factor or content.get("rope_scaling_factor") or _factor_of_shape(values)
        values["rope_scaling"] = RopeScaling(factor=float(factor))
    elif rope_factor:
        raise ValueError("use_scaled_rope is false, so a rope_factor has nothing to scale")
    return freeze(LlamaConfig, values | {"tied": tied}, "the model's shape")


def _factor_of_shape(values: Mapping[str, Any]) -> float:
    """The factor of the herd's members of this shape; key and value heads may be repeated over shards."""
    shape = ("embed_dim", "num_layers", "num_heads", "mlp_dim", "vocab_size")
    factors = {
        config.rope_scaling.factor
        for config in HERD.values()
        if config.rope_scaling and all(getattr(config, field) == values[field] for field in shape)
    }
    if len(factors) != 1:
        raise ValueError(
            "use_scaled_rope is true, but nothing says by which factor, and the shape is none of the released ones: "
            "give --rope_factor, 8 if it is as in 3.1 and 3.3, 32 if as in 3.2"
        )
    return factors.pop()


def write_params(config: LlamaConfig) -> dict[str, Any]:
    """A `params.json`. Raises ValueError for what Meta's code cannot express.

    Keys of ours, passed over by Meta's code: `rope_scaling_factor`, and `max_position_embeddings` where it is not what
    `read_params` would take it to be.
    """
    if config.head_dim * config.num_heads != config.embed_dim:
        raise ValueError(
            f"Meta's format has no head_dim of its own: {config.num_heads} heads of {config.head_dim} are not the "
            f"width {config.embed_dim}"
        )
    multiplier, multiple_of = _width_formula(config)
    scaling = config.rope_scaling
    content = {name: getattr(config, field) for name, field in FIELDS.items()}
    content |= {"ffn_dim_multiplier": multiplier, "multiple_of": multiple_of, "use_scaled_rope": scaling is not None}
    if scaling is not None:
        if RopeScaling(factor=scaling.factor) != scaling:
            raise ValueError(f"Meta's format has fixed frequencies and length of the rotary scaling, not {scaling}")
        content["rope_scaling_factor"] = scaling.factor
    if config.max_length != (LENGTH if scaling is None else SCALED_LENGTH):
        content["max_position_embeddings"] = config.max_length
    return content


def _width_formula(config: LlamaConfig) -> tuple[float, int]:
    """A multiplier and a multiple that `mlp_dim` turns into the width we have."""
    base = mlp_dim(config.embed_dim, None, 1)
    plain = ((config.mlp_dim + 0.5) / base, 1)  # half a unit above, so that rounding down lands on the width
    return next((pair for pair in RELEASED_PAIRS if mlp_dim(config.embed_dim, *pair) == config.mlp_dim), plain)

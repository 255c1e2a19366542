"""`config.json` and `generation_config.json` of a Hugging Face Llama, to and from our config.

Whatever would make `transformers` compute something else than our model does is refused by name: a setting that is read
over is a wrong answer later.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llama3_jax.core.config import freeze
from llama3_jax.model.convert import HUGGING_FACE, MATRIX_OF_ROWS, slots
from llama3_jax.model.layers import RopeScaling
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.ops.quant import ACTIVATION_BOUND

# Settings that must have this value, which is also what their absence means; the first are written, too.
WRITTEN = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
FIXED = WRITTEN | {"partial_rotary_factor": 1.0}
# The one way of quantising that is Llama 3's own (6.2): rows of FP8 in feed-forward layers, by FBGEMM.
FBGEMM, BOUND = "fbgemm_fp8", "activation_scale_ub"
# their name -> (our field, what `transformers` takes when it is absent; ... when it must be there)
FIELDS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", ...),
    "num_hidden_layers": ("num_layers", ...),
    "hidden_size": ("embed_dim", ...),
    "num_attention_heads": ("num_heads", ...),
    "num_key_value_heads": ("num_kv_heads", None),
    "head_dim": ("head_dim", None),
    "intermediate_size": ("mlp_dim", ...),
    "max_position_embeddings": ("max_length", 2048),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "tie_word_embeddings": ("tied", False),
}
ROPE_FIELDS = {
    "factor": "factor",
    "low_freq_factor": "low_frequency",
    "high_freq_factor": "high_frequency",
    "original_max_position_embeddings": "original_length",
}
DEFAULT_THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Where text begins and where generation ends."""

    begin: int
    stop: tuple[int, ...]


RELEASED_VOCAB_SIZE = 128_256
RELEASED_IDS = SpecialIds(128_000, (128_001, 128_008, 128_009))  # end of text, of message, of turn


def read_config(content: Mapping[str, Any]) -> LlamaConfig:
    """Our config of a `config.json`, of transformers 4 or 5. Raises ValueError naming a setting that does not fit."""
    read_grid(content)
    for name, value in FIXED.items():
        found = content.get(name, value)
        if found != value:
            raise ValueError(f"{name} is {found!r}; a Llama 3 text model has {value!r}")
    values = {}
    for name, (field, default) in FIELDS.items():
        found = content.get(name)
        if found is None and default is ...:
            raise ValueError(f"{name} is missing")
        values[field] = default if found is None else found
    values["num_kv_heads"] = values["num_kv_heads"] or values["num_heads"]
    values["head_dim"] = values["head_dim"] or values["embed_dim"] // values["num_heads"]
    theta, scaling = _read_rope(content)
    return freeze(LlamaConfig, values | {"rope_theta": theta, "rope_scaling": scaling}, "the model's shape")


def read_grid(content: Mapping[str, Any]) -> str | None:
    """The grid of ops/quant.py that a `config.json` tells of, or None. Raises ValueError for what we do not compute.

    Which layers are quantised is seen in the tensors.
    """
    found = content.get("quantization_config")
    if found is None:
        return None
    method, bound = found.get("quant_method"), found.get(BOUND, ACTIVATION_BOUND)
    if method != FBGEMM:
        raise ValueError(f"quantization_config is of {method!r}; only {FBGEMM!r} is read")
    if bound != ACTIVATION_BOUND:
        raise ValueError(f"quantization_config has {BOUND} {bound!r}; Llama 3 has {ACTIVATION_BOUND}")
    return "fp8"


def _write_fbgemm(config: LlamaConfig) -> dict[str, Any]:
    """What `transformers.FbgemmFp8Config` reads; modules are listed by their whole names, as in Meta's uploads."""
    matrices = [slot for slot in slots(config, "fp8") if len(slot.letters) > 1 and slot.path not in MATRIX_OF_ROWS]
    modules = [HUGGING_FACE[slot.path].name.format(slot.layer) for slot in matrices if slot.path != "embedding_VD"]
    if config.tied:
        modules.append(HUGGING_FACE["head_DV"].name)
    return {"quant_method": FBGEMM, BOUND: ACTIVATION_BOUND, "modules_to_not_convert": modules}


def _read_rope(content: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Transformers 5 has `rope_parameters` with theta inside; 4 has `rope_theta` beside `rope_scaling`."""
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or content.get("rope_theta") or DEFAULT_THETA)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("only part of each head is rotated, which Llama 3 does not do")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(f"rope_type is {kind!r}; Llama 3 has 'default' or 'llama3'")
    missing = [name for name in ROPE_FIELDS if name not in rope]
    if missing:
        raise ValueError(f"the rotary scaling has no {missing[0]}")
    return theta, RopeScaling(**{field: rope[name] for name, field in ROPE_FIELDS.items()})


def write_config(
    config: LlamaConfig, dtype: str, ids: SpecialIds | None, quantized: str | None = None
) -> dict[str, Any]:
    """A `config.json` that transformers 4.43 and later read, in the form of Meta's own uploads."""
    content: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]} | WRITTEN
    content |= {name: getattr(config, field) for name, (field, _) in FIELDS.items()}
    content |= {"rope_theta": config.rope_theta, "rope_scaling": None, "torch_dtype": dtype, "use_cache": True}
    if config.rope_scaling is not None:
        scaling = {name: getattr(config.rope_scaling, field) for name, field in ROPE_FIELDS.items()}
        content["rope_scaling"] = scaling | {"rope_type": "llama3"}
    if quantized is not None:
        content["quantization_config"] = _write_fbgemm(config)
    return content | _tokens(ids)


def write_generation_config(ids: SpecialIds | None) -> dict[str, Any]:
    """A `generation_config.json`: the sampling that Meta ships, and where to stop."""
    return {"do_sample": True, "temperature": 0.6, "top_p": 0.9} | _tokens(ids)


def released_ids(config: LlamaConfig) -> SpecialIds | None:
    """The ids of the released vocabulary if the model's is at least as large; else nothing is known."""
    return RELEASED_IDS if config.vocab_size >= RELEASED_VOCAB_SIZE else None


def _tokens(ids: SpecialIds | None) -> dict[str, Any]:
    """Null says that there are none; absent would mean Llama 1's ids to `transformers`."""
    return {"bos_token_id": ids and ids.begin, "eos_token_id": ids and list(ids.stop)}

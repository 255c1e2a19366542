"""config.json and params.json, both ways, for the whole herd: against `transformers` and Meta's own list of models."""

import dataclasses
import json

import pytest

from llama3_jax.model.layers import RopeScaling
from llama3_jax.model.llama import HERD, LlamaConfig
from llama3_jax.weights.hugging_face_config import RELEASED_IDS, read_config, released_ids, write_config
from llama3_jax.weights.meta_params import mlp_dim, read_params, write_params

# Meta's names, in llama_models.sku_list, for the members of the herd that were released.
RELEASED = {
    "llama3_8b": "Llama-3-8B",
    "llama3_70b": "Llama-3-70B",
    "llama3_1_8b": "Llama3.1-8B",
    "llama3_1_70b": "Llama3.1-70B",
    "llama3_1_405b": "Llama3.1-405B",
    "llama3_2_1b": "Llama3.2-1B",
    "llama3_2_3b": "Llama3.2-3B",
    "llama3_3_70b": "Llama3.3-70B-Instruct",
}
# What Meta's uploads of 3.2 1B have in config.json, as of the correction of the factor in October 2024.
CONFIG_3_2_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}

whole_herd = pytest.mark.parametrize("name", HERD)
TINY = LlamaConfig(vocab_size=512, num_layers=2, embed_dim=64, num_heads=4, num_kv_heads=2, head_dim=16, mlp_dim=160)


@whole_herd
def test_config_json_says_all_of_the_config(name):
    content = json.loads(json.dumps(write_config(HERD[name], "bfloat16", RELEASED_IDS)))
    assert read_config(content) == HERD[name]
    assert content["eos_token_id"] == [128001, 128008, 128009]


def test_metas_own_config_json_is_read():
    assert read_config(CONFIG_3_2_1B) == HERD["llama3_2_1b"]
    ours = write_config(HERD["llama3_2_1b"], "bfloat16", released_ids(HERD["llama3_2_1b"]))
    common = CONFIG_3_2_1B.keys() & ours.keys() - {"eos_token_id"}
    assert len(common) > 18 and {key: ours[key] for key in common} == {key: CONFIG_3_2_1B[key] for key in common}


@whole_herd
def test_transformers_understands_it_and_writes_it_again(name):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaConfig(**write_config(HERD[name], "bfloat16", RELEASED_IDS))
    assert read_config(theirs.to_dict()) == HERD[name]  # in the form of version 5


@whole_herd
def test_params_json_says_all_of_the_config(name):
    config = HERD[name]
    content = json.loads(json.dumps(write_params(config)))
    assert read_params(content, config.tied) == config
    assert ("rope_scaling_factor" in content) == (config.rope_scaling is not None)


@pytest.mark.parametrize("name", RELEASED)
def test_metas_own_params_json_is_read_and_written(name):
    """The released files have no factor: it is that of the member of the herd with this shape, 32 for 3.2."""
    sku_list = pytest.importorskip("llama_models.sku_list")
    (released,) = [
        model
        for model in sku_list.all_registered_models()
        if model.core_model_id.value == RELEASED[name] and model.pth_file_count < 16
    ][:1]
    assert read_params(released.arch_args, HERD[name].tied) == HERD[name]
    ours = write_params(HERD[name])
    assert {key: value for key, value in ours.items() if key != "rope_scaling_factor"} == released.arch_args


def test_the_405b_with_repeated_key_heads_keeps_its_factor():
    params = write_params(HERD["llama3_1_405b"]) | {"n_kv_heads": 16}
    del params["rope_scaling_factor"]
    assert read_params(params, False) == dataclasses.replace(HERD["llama3_1_405b"], num_kv_heads=16)


def test_where_the_rotary_factor_comes_from():
    config = dataclasses.replace(TINY, rope_scaling=RopeScaling(factor=32.0), max_length=131_072)
    content = write_params(config)
    assert read_params(content, False) == config
    assert read_params(content, False, rope_factor=8.0).rope_scaling == RopeScaling(factor=8.0)
    del content["rope_scaling_factor"]
    assert read_params(content, False, rope_factor=16.0).rope_scaling == RopeScaling(factor=16.0)
    with pytest.raises(ValueError, match="nothing says by which factor.* give --rope_factor, 8 if .* 32 if"):
        read_params(content, False)
    with pytest.raises(ValueError, match="use_scaled_rope is false, so a rope_factor has nothing to scale"):
        read_params(write_params(TINY), False, rope_factor=8.0)


@pytest.mark.parametrize("width", [1, 2, 31, 160, 161, 255, 4097, 14_336, 53_248, 53_249])
def test_every_width_has_a_formula(width):
    config = dataclasses.replace(TINY, mlp_dim=width)
    content = write_params(config)
    assert mlp_dim(64, content["ffn_dim_multiplier"], content["multiple_of"]) == width


def test_a_length_of_ones_own_is_kept():
    for config in (dataclasses.replace(TINY, max_length=777), dataclasses.replace(HERD["llama3_1_8b"], max_length=777)):
        assert read_params(write_params(config), False) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'; a Llama 3 text model has 'llama'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is of None; only 'fbgemm_fp8' is read"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is of 'fp8'"),
        (
            {"quantization_config": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 900.0}},
            "quantization_config has activation_scale_ub 900.0; Llama 3 has 1200.0",
        ),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "wide"}, "embed_dim must be int, got 'wide'"),
        ({"num_key_value_heads": 5}, "num_heads 32 is not a multiple of num_kv_heads 5"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "the rotary scaling has no low_freq_factor"),
    ],
)
def test_a_config_json_of_something_else_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_config(CONFIG_3_2_1B | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_chunk_size": 448}, "vision_chunk_size is 448: only plain text models are converted"),
        ({"quantization_args": {"group_size": 32}}, "quantization_args is"),
        ({"n_layers": None}, "n_layers is missing"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"vocab_size": -1}, "vocab_size must be positive, got -1"),
        ({"n_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    ],
)
def test_a_params_json_of_something_else_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_params(write_params(TINY) | change, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 32}, "no head_dim of its own: 4 heads of 32 are not the width 64"),
        ({"rope_scaling": RopeScaling(low_frequency=2.0)}, "fixed frequencies and length"),
    ],
)
def test_what_metas_format_cannot_say_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        write_params(dataclasses.replace(TINY, **change))

"""Encoders' folders: read from `transformers`' files, written for it, and what is refused."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from llama3_jax.model.roberta_names import to_hugging_face
from llama3_jax.weights.roberta import read_roberta, write_roberta
from tests.model.roberta_models import TINY, hugging_face, numpy_state

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")


@pytest.fixture
def saved(tmp_path):
    """`saved(config, kind)` -> (the model of transformers, its folder)."""

    def save(config, kind=None):
        model = hugging_face(config, kind)
        folder = tmp_path / "theirs"
        model.save_pretrained(folder)
        return model, folder

    return save


def flat(params):
    return traverse_util.flatten_dict(params, sep="/")


@pytest.mark.parametrize("num_labels", [1, 4])
def test_a_classifier_goes_from_their_folder_to_ours_and_back(saved, tmp_path, num_labels):
    model, folder = saved(dataclasses.replace(TINY, num_labels=num_labels))
    loaded = read_roberta(folder)
    assert loaded.config == dataclasses.replace(TINY, num_labels=num_labels)
    assert loaded.has_head and loaded.tokenizer is None
    write_roberta(tmp_path / "ours", loaded.config, loaded.params)
    back = transformers.RobertaForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert back.config.num_labels == num_labels
    assert numpy_state(back).keys() == numpy_state(model).keys()
    for name, array in numpy_state(model).items():
        np.testing.assert_array_equal(numpy_state(back)[name], array, err_msg=name)
    again = read_roberta(tmp_path / "ours")
    assert again.config == loaded.config
    for path, array in flat(loaded.params).items():
        np.testing.assert_array_equal(flat(again.params)[path], array, err_msg=path)


@pytest.mark.parametrize("kind", ["RobertaModel", "RobertaForMaskedLM"])
def test_an_encoder_comes_without_a_head(saved, tmp_path, kind):
    model, folder = saved(dataclasses.replace(TINY, num_labels=0), kind)
    loaded = read_roberta(folder, num_labels=1)
    assert loaded.config == TINY and not loaded.has_head
    alone = read_roberta(folder)
    assert alone.config.num_labels == 0
    written = to_hugging_face(alone.params, alone.config)
    state = {name.removeprefix("roberta."): array for name, array in numpy_state(model).items()}
    assert len(written) > 10
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])
    write_roberta(tmp_path / "ours", alone.config, alone.params)
    transformers.RobertaModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False)


def test_a_head_of_other_labels_is_left(saved):
    _, folder = saved(dataclasses.replace(TINY, num_labels=3))
    loaded = read_roberta(folder, num_labels=2)
    assert loaded.config.num_labels == 2 and not loaded.has_head


def test_bfloat16_is_written_and_read(saved, tmp_path):
    _, folder = saved(TINY)
    loaded = read_roberta(folder)
    write_roberta(tmp_path / "half", loaded.config, loaded.params, dtype="bfloat16")
    half = read_roberta(tmp_path / "half")
    for path, array in flat(half.params).items():
        assert array.dtype == jnp.bfloat16
        np.testing.assert_array_equal(array, flat(loaded.params)[path].astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; this encoder has 'gelu'"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"type_vocab_size": 2}, "type_vocab_size is 2"),
        ({"num_attention_heads": None}, "num_attention_heads is missing"),
        ({"hidden_size": 48}, r"embeddings.word_embeddings.weight has shape \(300, 32\); the config needs \(300, 48\)"),
        ({"num_hidden_layers": 3}, "no tensor roberta.encoder.layer.2.attention.self.query.weight"),
        ({"num_hidden_layers": 1}, r"has a tensor roberta.encoder.layer.1.\S+, which a RoBERTa encoder"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_config_that_does_not_fit_is_refused_by_name(saved, change, message):
    _, folder = saved(TINY)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_roberta(folder)


def test_a_tensor_of_another_model_is_refused(saved):
    _, folder = saved(TINY)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"roberta.adapter.weight": np.zeros(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="has a tensor roberta.adapter.weight"):
        read_roberta(folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        read_roberta(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        read_roberta(tmp_path)
    with pytest.raises(ValueError, match="is not empty"):
        write_roberta(tmp_path, TINY, {})

"""The encoder against `transformers` in float32, and on a mesh against one device."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from llama3_jax.core.params import count_params, init_params, map_declarations, split_module
from llama3_jax.core.sharding import Layout, MeshConfig, batch_sharding, make_mesh
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.roberta import Roberta, RobertaConfig, encoder_layout
from llama3_jax.model.roberta_names import SCHEME, from_hugging_face, to_hugging_face
from tests.model.roberta_models import COMPUTE, TINY, hugging_face, numpy_state, rows

TOLERANCE = 1e-5
SHAPES = {
    "regression": TINY,
    "three classes": dataclasses.replace(TINY, num_labels=3, num_layers=3),
    "512 tokens": dataclasses.replace(TINY, num_positions=514, num_labels=2),
    "other padding id": dataclasses.replace(TINY, pad_id=5, num_positions=70),
    "one head": dataclasses.replace(TINY, num_heads=1),
}


def joined(config, params, compute=COMPUTE, of=lambda model, *batch: model(*batch)):
    """`function(tokens, lengths)` of a model with these parameters: its outputs, or what `of` takes of it."""
    graphdef = split_module(Roberta(config, compute))[0]
    run = jax.jit(lambda params, *batch: of(nnx.merge(graphdef, params), *batch))
    return lambda *batch: run(jax.tree.map(jnp.asarray, params), *batch)


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def theirs_of(model, tokens, lengths):
    torch = pytest.importorskip("torch")
    mask = torch.from_numpy((np.arange(tokens.shape[1]) < lengths[:, None]).astype(np.int64))
    return model(input_ids=torch.from_numpy(tokens).long(), attention_mask=mask)


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_are_those_of_transformers(name):
    torch = pytest.importorskip("torch")
    config = SHAPES[name]
    longest = config.max_length
    tokens, lengths = rows(config, [longest, 2, longest // 3, 17], longest)
    theirs_model = hugging_face(config)
    with torch.no_grad():
        theirs = theirs_of(theirs_model, tokens, lengths).logits.numpy()
    ours = joined(config, from_hugging_face(numpy_state(theirs_model), config))(tokens, lengths)
    assert ours.shape == (4, config.num_labels) and ours.dtype == jnp.float32
    assert np.std(theirs) > 1e-2  # the rows differ, so agreement means something
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def test_states_of_the_encoder_alone_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(TINY, num_labels=0)
    tokens, lengths = rows(config, [40, 5, 64])
    theirs_model = hugging_face(config)
    with torch.no_grad():
        theirs = theirs_of(theirs_model, tokens, lengths).last_hidden_state.numpy()
    params = from_hugging_face(numpy_state(theirs_model), config)
    ours = np.asarray(joined(config, params, of=Roberta.hidden)(tokens, lengths))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(ours[row, :length], theirs[row, :length], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("attention", ["reference", "chunked"])
def test_gradients_are_those_of_transformers(attention):
    torch = pytest.importorskip("torch")
    config = SHAPES["three classes"]
    tokens, lengths = rows(config, [33, 4, 64, 20])
    labels = np.array([0, 2, 1, 1])
    theirs_model = hugging_face(config)
    loss = torch.nn.functional.cross_entropy(
        theirs_of(theirs_model, tokens, lengths).logits, torch.from_numpy(labels), reduction="sum"
    )
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in theirs_model.named_parameters()}
    params = from_hugging_face(numpy_state(theirs_model), config)

    def ours_loss(params):
        compute = dataclasses.replace(COMPUTE, attention=attention, remat="full")
        logits = joined(config, params, compute)(tokens, lengths)
        return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    value, ours = jax.value_and_grad(ours_loss)(jax.tree.map(jnp.asarray, params))
    assert abs(value - loss.item()) < 1e-4
    wanted = traverse_util.flatten_dict(from_hugging_face(grads, config), sep="/")
    found = traverse_util.flatten_dict(ours, sep="/")
    assert found.keys() == wanted.keys() == SCHEME.keys()
    for path, gradient in wanted.items():
        scale = np.abs(gradient).max()
        assert scale > 0 or "bias_k" in path, path  # a bias on all keys changes no softmax
        np.testing.assert_allclose(found[path], gradient, atol=2e-5 * max(scale, 1.0), err_msg=path)


def test_names_go_both_ways():
    for config in (TINY, dataclasses.replace(TINY, num_labels=0)):
        state = numpy_state(hugging_face(config))
        back = to_hugging_face(from_hugging_face(state, config), config)
        known = {name for name in state if "pooler" not in name and not name.endswith("position_ids")}
        assert back.keys() == known
        for name, array in back.items():
            np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_what_stands_in_padding_and_beside_a_row_does_not_matter():
    model = joined(TINY, init_params(Roberta(TINY, COMPUTE), 0, one_device()))
    tokens, lengths = rows(TINY, [9, 30, 3])
    other = np.where(np.arange(30) < lengths[:, None], tokens, 299).astype(np.int32)
    np.testing.assert_array_equal(model(tokens, lengths), model(other, lengths))
    wider = np.pad(tokens, ((0, 0), (0, 34)), constant_values=TINY.pad_id)
    np.testing.assert_allclose(model(wider, lengths), model(tokens, lengths), atol=1e-6)
    changed = tokens.copy()
    changed[0, 8] = 3 + (changed[0, 8] - 2) % 290
    assert np.abs(np.asarray(model(changed, lengths) - model(tokens, lengths)))[0, 0] > 1e-7


def test_bfloat16_stays_near_float32():
    params = init_params(Roberta(TINY, COMPUTE), 1, one_device())
    params = jax.tree.map(lambda x: 3 * x, params)
    tokens, lengths = rows(TINY, [50, 64, 8])
    exact = joined(TINY, params)(tokens, lengths)
    rounded = joined(TINY, params, dataclasses.replace(COMPUTE, compute_dtype="bfloat16"))(tokens, lengths)
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(exact - rounded)).max() < 0.05


MESHES = {
    "tensor": ({"tensor": 2}, encoder_layout),
    "data, fsdp and tensor": ({"data": 2, "fsdp": 2, "tensor": 2}, encoder_layout),
    "sequence parallel": ({"tensor": 2}, Layout.of),
}


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_computes_what_one_device_does(name):
    config = dataclasses.replace(
        TINY, num_layers=1, num_labels=3, vocab_size=300 if name == "sequence parallel" else 301
    )
    sizes, layout_of = MESHES[name]
    tokens, lengths = rows(config, [16, 3, 9, 4, 5, 16, 2, 1], 16)
    labels = np.arange(8, dtype=np.int32) % 3

    def on(sizes):
        mesh = make_mesh(MeshConfig(**({"fsdp": 1} | sizes)), jax.devices()[: math.prod(sizes.values())])
        layout = layout_of(mesh)
        module = Roberta(config, COMPUTE, layout)
        params, graphdef = init_params(module, 0, mesh, layout), split_module(module)[0]

        def loss(params, tokens, lengths, labels):
            logits = nnx.merge(graphdef, params)(tokens, lengths)
            hit = labels[:, None] == jnp.arange(3)[None, :]
            return -jnp.sum(jnp.where(hit, jax.nn.log_softmax(logits), 0.0)), logits

        with jax.set_mesh(mesh):
            batch = [jax.device_put(x, batch_sharding(mesh, x.ndim)) for x in (tokens, lengths, labels)]
            (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, *batch)
        assert jax.tree.map(lambda g: g.sharding.spec, grads) == jax.tree.map(lambda p: p.sharding.spec, params)
        return jax.device_get((value, logits, grads))

    alone, split = on({}), on(sizes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), alone, split)


def test_the_declaration_is_distilroberta():
    assert count_params(Roberta(RobertaConfig())) == 82_119_169  # `distilroberta-base` with a head for one label
    letters = map_declarations(lambda path, param: param.letters, Roberta(TINY))
    flat = traverse_util.flatten_dict(letters, sep="/")
    assert flat.keys() == SCHEME.keys()
    for path, found in flat.items():
        assert found.removeprefix("N") == path.rpartition("_")[2], path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "embed_dim 32 is not a multiple of num_heads 5"),
        ({"num_positions": 2}, "leaves none after pad_id 1"),
        ({"num_labels": -1}, "num_labels"),
        ({"mlp_dim": 0}, "mlp_dim must be positive"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_what_cannot_be_combined_is_refused():
    for axis in ("stage", "context"):
        with pytest.raises(ValueError, match=f"not over {axis} 2"):
            Roberta(TINY, ComputeConfig(), Layout.of_sizes({axis: 2}))
    with pytest.raises(ValueError, match="vocab 300 does not divide"):
        Roberta(TINY, ComputeConfig(), Layout.of_sizes({"tensor": 8}))
    tokens, lengths = rows(TINY, [65])
    with pytest.raises(ValueError, match="rows of 65 tokens; the encoder takes 64"):
        joined(TINY, init_params(Roberta(TINY, COMPUTE), 0, one_device()))(tokens, lengths)

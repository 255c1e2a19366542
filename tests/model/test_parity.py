"""Logits and gradients against `transformers.LlamaForCausalLM` in float32, for every family member's traits.

Positions go past 8,192, where the rotary scaling of 3.1 and later and its absence in 3 part ways.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llama3_jax.core.params import split_module
from llama3_jax.model.convert import from_hugging_face, to_hugging_face
from llama3_jax.model.layers import ComputeConfig, RopeScaling
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.ops.losses import next_token_loss

torch = pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
transformers = pytest.importorskip("transformers")

SHAPE = {"vocab_size": 128, "num_layers": 3, "embed_dim": 64, "mlp_dim": 160, "max_length": 131_072}
FAMILY = {
    "llama3": LlamaConfig(num_heads=8, num_kv_heads=2, head_dim=16, **SHAPE),
    "llama3_1": LlamaConfig(num_heads=8, num_kv_heads=1, head_dim=32, rope_scaling=RopeScaling(factor=8.0), **SHAPE),
    "llama3_2_tied": LlamaConfig(
        num_heads=4, num_kv_heads=2, head_dim=16, rope_scaling=RopeScaling(factor=32.0), tied=True, **SHAPE
    ),
    "llama3_3": LlamaConfig(num_heads=4, num_kv_heads=4, head_dim=128, rope_scaling=RopeScaling(factor=8.0), **SHAPE),
}
COMPUTE = ComputeConfig(compute_dtype="float32", remat="none", attention="reference")
TOLERANCE = 2e-5


def hugging_face_model(config: LlamaConfig):
    scaling = config.rope_scaling
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency,
            "high_freq_factor": scaling.high_frequency,
            "original_max_position_embeddings": scaling.original_length,
        }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.embed_dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            rope_parameters=rope,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=config.tied,
            initializer_range=0.1,
            attn_implementation="eager",
        )
    )
    return model.float().eval()


def numpy_state(model) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def inputs(first_position: int):
    tokens_BS = np.random.default_rng(1).integers(0, SHAPE["vocab_size"], (2, 24)).astype(np.int32)
    positions_BS = np.broadcast_to(np.arange(first_position, first_position + 24, dtype=np.int32), (2, 24))
    return tokens_BS, np.ascontiguousarray(positions_BS)


@pytest.mark.parametrize("first_position", [0, 8180, 100_000])
@pytest.mark.parametrize("family", FAMILY)
def test_logits(family, first_position):
    config = FAMILY[family]
    theirs = hugging_face_model(config)
    tokens_BS, positions_BS = inputs(first_position)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.from_numpy(tokens_BS).long(), position_ids=torch.from_numpy(positions_BS).long()
        ).logits.numpy()
    graphdef, _ = split_module(Llama(config, COMPUTE))
    params = from_hugging_face(numpy_state(theirs), config)
    logits = jax.jit(lambda params, *x: nnx.merge(graphdef, params)(*x))(params, tokens_BS, positions_BS)
    assert np.abs(expected).max() > 1
    assert np.abs(np.asarray(logits) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("family", FAMILY)
def test_gradients(family):
    config = FAMILY[family]
    theirs = hugging_face_model(config)
    tokens_BS, positions_BS = inputs(8190)
    targets_BS = np.roll(tokens_BS, -1, axis=1)
    logits = theirs(
        input_ids=torch.from_numpy(tokens_BS).long(), position_ids=torch.from_numpy(positions_BS).long()
    ).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets_BS).long().flatten())
    loss.backward()
    expected = {name: tensor.grad.numpy() for name, tensor in theirs.named_parameters()}
    graphdef, _ = split_module(Llama(config, COMPUTE))

    def loss_of(params):
        model = nnx.merge(graphdef, params)
        x_BSD = model.hidden(tokens_BS, positions_BS)
        weights_BS = jnp.full(tokens_BS.shape, 1 / tokens_BS.size)
        return next_token_loss(x_BSD, model.output_head(), targets_BS, weights_BS, chunk=16)[0]

    value, grads = jax.jit(jax.value_and_grad(loss_of))(from_hugging_face(numpy_state(theirs), config))
    assert abs(float(value) - loss.item()) <= TOLERANCE
    got = to_hugging_face(grads, config)
    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert np.abs(got[name] - gradient).max() <= TOLERANCE, name


def test_conversion_is_its_own_inverse_and_refuses_other_weights():
    config = FAMILY["llama3"]
    state = numpy_state(hugging_face_model(config))
    back = to_hugging_face(from_hugging_face(state, config), config)
    assert set(back) == set(state)
    for name in state:
        np.testing.assert_array_equal(back[name], state[name])
    with pytest.raises(ValueError, match="no tensor model.norm.weight"):
        from_hugging_face({name: array for name, array in state.items() if name != "model.norm.weight"}, config)
    with pytest.raises(ValueError, match="tensor lm_head.weight has shape"):
        from_hugging_face(state | {"lm_head.weight": np.zeros((2, 2))}, config)

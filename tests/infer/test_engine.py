"""The engine against the whole forward pass, token by token."""

import jax
import numpy as np
import pytest
from flax import nnx

from llama3_jax.core.params import init_params, split_module
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.infer.engine import Engine
from llama3_jax.infer.sampling import SamplingConfig
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=64, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, max_length=96
)
LENGTHS = (1, 5, 17, 68)  # the last one is past the first rounding of prompt and cache
NEW = 12


@pytest.fixture(scope="module")
def model():
    """`(engine, forward)`: forward is the plain pass over padded rows, logits `[B, S, V]`."""
    declared = Llama(CONFIG, ComputeConfig(compute_dtype="float32", remat="none", attention="reference"))
    graphdef, _ = split_module(declared)
    params = init_params(declared, 3, make_mesh(MeshConfig(), jax.devices()[:1]))
    params = jax.tree.map(lambda x: x * 3, params)  # sharper, so that texts wander instead of repeating one token
    forward = jax.jit(lambda tokens_BS: nnx.merge(graphdef, params)(tokens_BS))
    return Engine(CONFIG, graphdef, params, "float32"), forward


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in LENGTHS]


def sampling(**changes) -> SamplingConfig:
    return SamplingConfig(**({"max_new_tokens": NEW, "temperature": 0.0, "top_p": 1.0} | changes))


def generate(engine, prompts, stop_ids=(), **changes) -> np.ndarray:
    """All tokens, `[B, steps]`."""
    return np.stack(list(engine.generate(prompts, sampling(**changes), stop_ids)), axis=1)


@pytest.fixture(scope="module")
def greedy(model, prompts):
    """The greedy continuation by running the whole pass again for every token."""
    _, forward = model
    rows = np.zeros((len(prompts), CONFIG.max_length), np.int32)
    lengths = np.array(LENGTHS)
    for row, prompt in enumerate(prompts):
        rows[row, : len(prompt)] = prompt
    for _ in range(NEW):
        logits_BSV = np.asarray(forward(rows))
        everyone = np.arange(len(prompts))
        rows[everyone, lengths] = logits_BSV[everyone, lengths - 1].argmax(axis=-1)
        lengths += 1
    return np.stack([row[start : start + NEW] for row, start in zip(rows, LENGTHS, strict=True)])


def test_greedy_text_is_that_of_the_whole_pass_for_prompts_of_any_length(model, prompts, greedy):
    got = generate(model[0], prompts)
    np.testing.assert_array_equal(got, greedy)
    assert len(np.unique(got)) > 8  # a model that repeats one token would prove nothing


def test_a_row_does_not_depend_on_its_neighbours(model, prompts, greedy):
    np.testing.assert_array_equal(generate(model[0], prompts[1:2]), greedy[1:2])


def test_a_stop_token_ends_its_row_and_the_last_one_ends_all(model, prompts, greedy):
    stop_ids = (int(greedy[0, 3]), int(greedy[2, 5]))
    hits = np.isin(greedy, stop_ids)
    ends = np.where(hits.any(axis=1), hits.argmax(axis=1), NEW - 1)
    assert hits.any(axis=1).sum() >= 2 and ends[0] <= 3
    expected = np.where(np.arange(NEW)[None, :] <= ends[:, None], greedy, -1)[:, : ends.max() + 1]
    np.testing.assert_array_equal(generate(model[0], prompts, stop_ids), expected)
    alone = generate(model[0], prompts[:1], stop_ids)
    assert alone.shape == (1, ends[0] + 1) and alone[0, -1] in stop_ids


def test_the_seed_decides_the_text(model, prompts):
    texts = [generate(model[0], prompts, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(texts[0], texts[1])
    assert (texts[0] != texts[2]).any(axis=1).all()


def test_every_step_and_row_draws_anew(model, prompts):
    """With all tokens as likely, repeated draws would repeat a token along a row or from row to row."""
    got = generate(model[0], prompts, temperature=1e6)
    assert min(len(np.unique(row)) for row in got) > NEW // 2
    assert min(len(np.unique(column)) for column in got.T) > 1


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        ([], {}, "there is no prompt"),
        ([[1], []], {}, "a prompt is empty"),
        ([[1, CONFIG.vocab_size]], {}, "outside the vocabulary of 64"),
        ([[1, -1]], {}, "outside the vocabulary of 64"),
        ([[1] * 90], {"max_new_tokens": 7}, "90 tokens and 7 new ones exceed the model's max_length 96"),
    ],
)
def test_what_cannot_be_continued_is_refused(model, prompts, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(model[0], prompts, **changes)


def test_a_text_may_fill_the_model_to_its_end(model):
    assert generate(model[0], [[1] * 90], max_new_tokens=6).shape == (1, 6)

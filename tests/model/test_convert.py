"""The table of names: it covers the model, and its letters are the permutation that Meta's code implies."""

import dataclasses

import numpy as np
import pytest

from llama3_jax.core.params import count_params
from llama3_jax.model.convert import HUGGING_FACE, META, slots, to_ours, to_theirs
from llama3_jax.model.llama import HERD, Llama, LlamaConfig

TINY = LlamaConfig(vocab_size=24, num_layers=2, embed_dim=12, num_heads=4, num_kv_heads=2, head_dim=6, mlp_dim=10)


@pytest.mark.parametrize("name", HERD)
def test_the_table_covers_every_parameter(name):
    config = HERD[name]
    total = count_params(Llama(config))
    for scheme in (HUGGING_FACE, META):
        shapes = [scheme[slot.path].shape(config) for slot in slots(config)]
        assert sum(int(np.prod(shape)) for shape in shapes) == total
        names = [slot.named(scheme[slot.path]) for slot in slots(config)]
        assert len(set(names)) == len(names)


def test_files_list_a_model_from_bottom_to_top():
    names = [slot.named(META[slot.path]) for slot in slots(TINY)]
    assert names[0] == "tok_embeddings.weight" and names[-2:] == ["norm.weight", "output.weight"]
    layers = [int(name.split(".")[1]) for name in names[1:-2]]
    assert layers == sorted(layers)
    tied = [slot.path for slot in slots(dataclasses.replace(TINY, tied=True))]
    assert tied == [slot.path for slot in slots(TINY) if slot.path != "head_DV"]


@pytest.mark.parametrize("scheme", [HUGGING_FACE, META], ids=["hugging_face", "meta"])
def test_there_and_back_is_the_same(scheme):
    rng = np.random.default_rng(0)
    for slot in slots(TINY):
        spelling, array = scheme[slot.path], rng.normal(size=slot.shape(TINY))
        matrix = to_theirs(array, spelling, slot, TINY)
        assert matrix.shape == spelling.shape(TINY)
        np.testing.assert_array_equal(to_ours(np.ascontiguousarray(matrix), spelling, slot, TINY), array)


def test_metas_neighbours_are_our_halves():
    """Row 2p + x of a head of Meta's turns with frequency p; it is row 3x + p of ours, the heads having 3 pairs."""
    (slot,) = [slot for slot in slots(TINY) if slot.path.endswith("wq_DHE") and slot.layer == 0]
    array = np.random.default_rng(0).normal(size=(12, 4, 6))
    matrix = to_theirs(array, META[slot.path], slot, TINY)
    for head in range(4):
        for pair in range(3):
            for half in range(2):
                np.testing.assert_array_equal(matrix[6 * head + 2 * pair + half], array[:, head, 3 * half + pair])

"""The composition matrix with a pipeline in it: every layout over five axes equals one device, in float32.

Loss, every gradient leaf and the parameters after one update, to 1e-5 as in test_composition.py. Slots and messages of
a pipeline that hold nothing are NaN, and so is the embedding of padding. A few cases run by default, all with -m slow.
"""

import dataclasses

import jax
import numpy as np
import pytest

from llama3_jax.core.sharding import batch_sharding
from llama3_jax.parallel import pipeline as pipeline_lib
from llama3_jax.parallel.schedule import PipelineConfig, stage_rows
from llama3_jax.train.recipe import one_batch_recipe
from tests.parallel.composition import (
    EXACT,
    LENGTH,
    MESHES,
    SHAPE,
    TOLERANCE,
    check,
    host_batch,
    make_program,
    on_one_device,
    one_update,
    relative_errors,
    run_config,
)

DEEP = dataclasses.replace(
    SHAPE, num_layers=6
)  # 4 and 8 stages leave two rows empty, as 16 x 8 chunks of 126 layers do
WITH_STAGES = [sizes for sizes in MESHES if sizes[2] > 1]
INTERLEAVED = PipelineConfig(chunks=2, group=3)
SAVED = "save:query,key,value,attention,gate,up,attention_residuals"
FAST = {  # (sizes, micro-batches, pipeline, compute)
    "interleaved": ((1, 2, 2, 1, 2), 8, INTERLEAVED, {"remat": SAVED}),
    "context": ((1, 1, 4, 2, 1), 4, PipelineConfig(), {}),
}
VARIANTS = {
    "gpipe": ((1, 2, 2, 1, 2), 4, PipelineConfig(schedule="gpipe", chunks=2), {}),
    "vocabulary_at_the_ends": ((1, 2, 2, 1, 2), 4, PipelineConfig(vocabulary="ends"), {}),
    "breadth_first": ((1, 1, 2, 2, 2), 8, PipelineConfig(chunks=3, group=8), {"remat": "none"}),
    "fewer_micro_batches_than_stages": ((1, 1, 8, 1, 1), 2, PipelineConfig(), {}),
    "one_micro_batch": ((2, 1, 2, 1, 2), 1, PipelineConfig(chunks=3), {"remat": SAVED}),
    "documents": ((1, 2, 2, 2, 1), 4, INTERLEAVED, {"context_split": "documents", "context_block": 1}),
    "no_sequence_parallel": ((1, 1, 2, 2, 2), 4, INTERLEAVED, {"sequence_parallel": False, "remat": SAVED}),
    "everything_saved": ((2, 1, 2, 2, 1), 4, INTERLEAVED, {"remat": "none"}),
}


@pytest.mark.parametrize("case", FAST)
def test_a_pipeline_equals_one_device(case):
    sizes, micro, pipeline, compute = FAST[case]
    check(sizes, "packed", micro, DEEP, pipeline, **compute)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", WITH_STAGES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_every_layout_equals_one_device(sizes):
    check(sizes, "packed", 4, DEEP)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_one_device(variant):
    sizes, micro, pipeline, compute = VARIANTS[variant]
    check(sizes, "unpacked" if variant == "gpipe" else "packed", micro, DEEP, pipeline, **compute)


@pytest.mark.slow
def test_a_tied_table_gets_both_gradients():
    check((1, 2, 2, 1, 2), "packed", 4, dataclasses.replace(DEEP, tied=True), INTERLEAVED)


def test_layers_in_the_wrong_order_are_seen(monkeypatch):
    monkeypatch.setattr(
        "llama3_jax.train.program.stage_rows", lambda num_layers, ranks, chunks: tuple(range(num_layers))
    )
    got = one_update({"stage": 2}, "packed", 4, EXACT, DEEP, pipeline=PipelineConfig(chunks=3))
    errors = relative_errors(got, on_one_device("packed", 4, DEEP))
    assert max(errors.values()) > 100 * TOLERANCE


def test_no_weight_is_kept_with_the_activations(monkeypatch):
    seen = []

    def start(self):
        carry = original(self)
        seen.append(
            ([leaf.shape[1:] for leaf in carry.kept], [leaf.shape[2:] for leaf in jax.tree.leaves(self.weights)])
        )
        return carry

    original = pipeline_lib.Pipeline._start
    monkeypatch.setattr(pipeline_lib.Pipeline, "_start", start)
    lowered({"stage": 2}, 4, PipelineConfig(chunks=3), {"remat": "none"})
    (kept, weights), *_ = seen
    matrices = {shape for shape in weights if len(shape) > 1}
    assert kept and not matrices & set(kept)


def lowered(sizes, micro, pipeline, compute, rows=2):
    """The step of a batch of `micro` micro-batches of `rows` rows."""
    config = run_config(sizes, 1, dataclasses.replace(EXACT, **compute), DEEP, pipeline)
    recipe = one_batch_recipe(LENGTH, micro * rows, "text")
    program = make_program(dataclasses.replace(config, recipe=recipe, micro_batch_tokens=rows * LENGTH))
    return program.lower(program.plan.segments[0])


def test_memory_depends_on_the_schedule_and_not_on_the_number_of_micro_batches():
    def temporaries(schedule, micro):
        pipeline = PipelineConfig(schedule=schedule)
        return lowered({"stage": 2}, micro, pipeline, {}, rows=32).compile().memory_analysis().temp_size_in_bytes

    slot = 32 * LENGTH * DEEP.embed_dim * 4
    assert temporaries("1f1b", 16) < 1.02 * temporaries("1f1b", 4)
    assert temporaries("gpipe", 16) > temporaries("gpipe", 4) + 12 * slot


def test_a_pipeline_evaluates_as_one_device_does():
    rows = host_batch("packed")
    sums = {}
    for name, sizes, pipeline in (("one", {}, PipelineConfig()), ("four", {"stage": 2, "tensor": 2}, INTERLEAVED)):
        program = make_program(run_config(sizes, 4, EXACT, DEEP, pipeline))
        with jax.set_mesh(program.mesh):
            batch = {key: jax.device_put(value, batch_sharding(program.mesh, 2)) for key, value in rows.items()}
            sums[name] = jax.device_get(jax.jit(program.sums(True))(program.fresh_state().params, batch))
    for key, want in sums["one"].items():
        np.testing.assert_allclose(sums["four"][key], want, rtol=1e-5)


@pytest.mark.parametrize(
    "num_layers,ranks,chunks,want",
    [
        (4, 2, 1, (0, 1, 2, 3)),
        (4, 2, 2, (0, 2, 1, 3)),
        (6, 4, 1, (0, -1, 1, 2, 3, 4, 5, -1)),
        (6, 4, 2, (-1, 3, 0, 4, 1, 5, 2, -1)),
        (5, 2, 1, (0, 1, -1, 2, 3, 4)),
    ],
)
def test_rows_of_ranks(num_layers, ranks, chunks, want):
    assert stage_rows(num_layers, ranks, chunks) == want


def test_the_405b_over_16_stages_of_8_chunks_has_its_first_and_last_chunk_empty():
    rows = stage_rows(126, 16, 8)
    assert rows[0] == rows[-1] == -1 and sorted(rows)[2:] == list(range(126))


@pytest.mark.parametrize(
    "num_layers,ranks,chunks,message",
    [
        (
            126,
            16,
            9,
            "126 layers cannot be laid out over 16 stages of 9 chunks each, 144 in all .*nearest legal chunks: 8",
        ),
        (4, 8, 1, "at most 6 stages can share them"),
    ],
)
def test_layers_that_cannot_be_laid_out(num_layers, ranks, chunks, message):
    with pytest.raises(ValueError, match=message):
        stage_rows(num_layers, ranks, chunks)

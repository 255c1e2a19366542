"""The composition matrix: every way to split a train step over eight devices equals one device, in float32.

Loss, every gradient leaf and the parameters after one update: relative error in the Euclidean norm of each leaf at most
1e-5. Padding holds a token whose embedding is NaN. A few cases run by default, all of them with -m slow.
"""

import dataclasses

import numpy as np
import pytest

from llama3_jax.core.sharding import Layout
from llama3_jax.parallel.balance import chunk_order
from llama3_jax.train.program import Program, check_layout
from llama3_jax.train.recipe import Plan
from tests.parallel.composition import (
    EXACT,
    LENGTH,
    MESHES,
    ROWS,
    SHAPE,
    TOLERANCE,
    check,
    on_one_device,
    one_update,
    relative_errors,
    run_config,
)

WITHOUT_STAGES = [sizes for sizes in MESHES if sizes[2] == 1]
FAST = [((2, 2, 1, 1, 2), "packed", 1), ((1, 2, 1, 2, 2), "packed", 4), ((1, 1, 1, 4, 2), "unpacked", 1)]
VARIANTS = {  # what else a step can be made of
    "kept": {"reshard_after_forward": False},
    "documents": {"context_split": "documents", "context_block": 1},
    "no_sequence_parallel": {"sequence_parallel": False},
    "everything_saved": {"remat": "none"},
    "unrolled": {"scan_unroll": 2},
}


@pytest.mark.parametrize("sizes,kind,micro", FAST)
def test_splits_equal_one_device(sizes, kind, micro):
    check(sizes, kind, micro)


@pytest.mark.slow
@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("kind", ["packed", "unpacked"])
@pytest.mark.parametrize("sizes", WITHOUT_STAGES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_every_split_equals_one_device(sizes, kind, micro):
    check(sizes, kind, micro)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_one_device(variant):
    check((1, 2, 1, 2, 2), "packed", 4, **VARIANTS[variant])


def test_a_tied_head_gets_both_gradients_on_a_mesh():
    check((1, 2, 1, 2, 2), "packed", 1, dataclasses.replace(SHAPE, tied=True))


def without_document_mask(program, batch):
    return {**batch, "segment_ids": np.minimum(batch["segment_ids"], 1)}


def with_positions_of_each_part(program, batch):
    return {**batch, "positions": batch["positions"] % (LENGTH // 4)}


def in_the_order_of_the_text(program, batch):
    order = np.argsort(chunk_order(LENGTH, program.layout.size("context")))
    return {name: array[:, order] for name, array in batch.items()}


def with_means_of_means(program, batch):
    objective = program.objective

    def mean(model, x_BRD, micro_batch):
        loss, sums = objective.loss(model, x_BRD, micro_batch)
        return loss / sums["tokens"] * ROWS * LENGTH / 4, sums

    program.objective = dataclasses.replace(objective, loss=mean)
    return batch


def without_rope_scaling(program, batch):
    program.graphdef = lambda rope_scaling: Program.graphdef(program, False)
    return batch


FAULTS = (
    without_document_mask,
    with_positions_of_each_part,
    in_the_order_of_the_text,
    with_means_of_means,
    without_rope_scaling,
)


@pytest.mark.parametrize("tamper", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_that_were_found_in_the_field_are_seen(tamper):
    """docs/composition.md says where each was met."""
    got = one_update({"fsdp": 2, "context": 2, "tensor": 2}, "packed", 4, tamper=tamper)
    errors = relative_errors(got, on_one_device("packed", 4, SHAPE))
    assert max(errors.values()) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "sizes,model,message",
    [
        ({"tensor": 8}, {"num_kv_heads": 4}, "kv_heads 4 does not divide by mesh axis tensor 8; nearest legal size: 4"),
        ({"context": 8, "tensor": 8}, {}, "sequences of 32 tokens do not divide by context 8 x tensor 8"),
        ({"context": 32}, {}, "do not divide by 2 x context 32; nearest legal length: 64"),
        ({"fsdp": 64}, {}, "embed 32 does not divide by mesh axis fsdp 64; nearest legal size: 32"),
        ({"data": 64}, {}, "does not divide into micro-batches of 1024 tokens over data x fsdp = 64 devices"),
        ({"stage": 8}, {}, "2 layers cannot be laid out over 8 stages of 1 chunks each"),
    ],
)
def test_illegal_mixes_are_refused_with_the_reason(sizes, model, message):
    config = run_config(sizes, 1, EXACT, dataclasses.replace(SHAPE, **model))
    layout = Layout.of_sizes(sizes)
    with pytest.raises(ValueError, match=message):
        check_layout(config, Plan(config.recipe), layout)

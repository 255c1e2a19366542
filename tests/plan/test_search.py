"""The planner's search: legal layouts only, ranked by time, losers with a reason, and a sentence when nothing fits."""

import dataclasses
import re

import pytest

from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.plan.compiled import choose_segment
from llama3_jax.plan.search import HEADROOM, alone, candidates, meshes, no_layout, ranked, too_large, why
from llama3_jax.plan.topology import GIB, HARDWARE
from llama3_jax.train.paper import herd_run
from llama3_jax.train.program import check_layout
from llama3_jax.train.recipe import Plan


def one_segment(size, stage=None, long_context=False):
    config = herd_run(f"llama3_{size}", HERD[f"llama3_{size}"], size, mesh=MeshConfig(), long_context=long_context)
    return alone(config, choose_segment(Plan(config.recipe), stage)[1])


@pytest.fixture(scope="module")
def found():
    return list(candidates(one_segment("8b"), 16, HARDWARE["h100"]))


def test_every_candidate_is_one_that_a_run_would_accept(found):
    assert len(found) > 100
    for candidate in found[:: len(found) // 50]:
        check_layout(candidate.config, Plan(candidate.config.recipe), candidate.layout)
        assert candidate.layout.num_devices([axis for axis, _ in candidate.layout.sizes]) == 16


def test_the_tensor_axis_stays_in_its_host():
    assert {sizes["tensor"] for sizes in meshes(64, HARDWARE["h100"], 64, 8192)} == {1, 2, 4, 8}
    assert {sizes["tensor"] for sizes in meshes(64, HARDWARE["v5p"], 64, 8192)} == {1, 2, 4, 8, 16}


def test_the_best_of_each_split_is_ranked_by_time_and_fits(found):
    best = ranked(found)
    steps = [candidate.projection.step for candidate in best]
    assert steps == sorted(steps) and len({candidate.split for candidate in best}) == len(best)
    assert all(candidate.memory.peak <= HEADROOM * candidate.available for candidate in best)
    assert steps[0] == min(candidate.projection.step for candidate in found if candidate.fits)


def test_losers_lose_for_a_reason(found):
    best = ranked(found)
    assert why(best[0], best[0]) == "the fastest that fits"
    for candidate in best[1:]:
        assert re.fullmatch(
            r"[\d.]+% slower: [a-z -]+ \+\d+% of the step|the fastest that fits", why(candidate, best[0])
        )
    for candidate in too_large(found, best[0], 3):
        assert candidate.projection.step < best[0].projection.step
        assert re.fullmatch(r"does not fit: \d+ of 73 GiB, .+ \d+", why(candidate, best[0]))


def test_less_memory_never_makes_a_step_faster():
    config = one_segment("8b")
    steps = []
    for gib in (70, 40, 25):
        small = dataclasses.replace(HARDWARE["h100"], memory_bytes=gib * GIB)
        steps.append(ranked(candidates(config, 16, small))[0].projection.step)
    assert steps == sorted(steps)


def test_a_segment_is_planned_by_itself():
    config = one_segment("8b", stage="0")
    (segment,) = Plan(config.recipe).segments
    assert (segment.sequence_length, segment.batch_tokens) == (4096, 2**22)
    assert not segment.rope_scaling


def test_nothing_fits_is_said_with_numbers_and_what_would():
    config, hardware = one_segment("405b"), HARDWARE["h100"]
    found = list(candidates(config, 64, hardware))
    assert not ranked(found)
    sentence = no_layout(found, config, 64, hardware)
    assert re.fullmatch(
        r"no layout of 64 h100 holds this step in 72\.9 GiB: the nearest, .+ with \d+ micro-batches and remat "
        r"full, needs [\d.]+ \(.+ [\d.]+\); (128|256) devices are enough",
        sentence,
    ), sentence


def test_devices_that_divide_nothing_are_said_so():
    config, hardware = one_segment("8b"), HARDWARE["h100"]
    found = list(candidates(config, 56, hardware))
    assert not found and "divides this model" in no_layout(found, config, 56, hardware)

"""The plan is arithmetic: the paper's numbers, and properties over random recipes."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.train import paper
from llama3_jax.train.recipe import (
    Anneal,
    ContextStage,
    LearningRate,
    LongContext,
    MixtureStep,
    Plan,
    RampStep,
    RecipeConfig,
    one_batch_recipe,
)


def small_recipe(**changes) -> RecipeConfig:
    defaults = {
        "total_tokens": 1000,
        "ramp": (
            RampStep(tokens=0, sequence_length=4, batch_tokens=16),
            RampStep(tokens=100, sequence_length=8, batch_tokens=32),
        ),
        "mixture": (MixtureStep(tokens=0, weights={"a": 1.0}), MixtureStep(tokens=300, weights={"a": 0.5, "b": 0.5})),
        "learning_rate": LearningRate(peak=1.0, final=0.1, warmup_steps=4, decay_steps=40),
        "long_context": LongContext(stages=(ContextStage(sequence_length=16, tokens=200),)),
        "anneal": Anneal(tokens=100, num_averaged=2),
    }
    return RecipeConfig(**(defaults | changes))


def test_the_papers_ramp_falls_on_the_papers_tokens():
    plan = Plan(paper.recipe("405b"))
    initial = [segment for segment in plan.segments if segment.stage == "initial"]
    assert [(s.sequence_length, s.batch_tokens) for s in initial] == [(4096, 2**22), (8192, 2**23), (8192, 2**24)]
    assert [s.batch_rows for s in initial] == [1024, 1024, 2048]
    assert 252e6 <= initial[1].start_tokens < 252e6 + 2**22
    assert 2.87e12 <= initial[2].start_tokens < 2.87e12 + 2**23
    assert abs(plan.tokens(plan.total_steps) - 15.6e12) < 2**25
    assert abs(plan.total_steps - 1_154_000) / 1_154_000 < 0.06  # at batches of 4, 8 and 16 million flat


def test_the_papers_learning_rate():
    plan = Plan(paper.recipe("405b"))
    assert plan.learning_rate(7999) == 8e-5
    assert plan.learning_rate(0) == 8e-5 / 8000
    assert LearningRate(peak=8e-5, final=8e-7, warmup_steps=8000, decay_steps=1_200_000).at(1_200_000) == pytest.approx(
        8e-7
    )
    end = plan.total_steps
    assert plan.learning_rate(end - 3) > plan.learning_rate(end - 2) > plan.learning_rate(end - 1) > 0


def test_small_recipe_in_full():
    plan = Plan(small_recipe())
    table = [
        (s.stage, s.start_step, s.num_steps, s.start_tokens, s.sequence_length, s.batch_tokens) for s in plan.segments
    ]
    assert table == [
        ("initial", 0, 7, 0, 4, 16),
        ("initial", 7, 6, 112, 8, 32),
        ("initial", 13, 13, 304, 8, 32),
        ("long_context_16", 26, 6, 720, 16, 32),
        ("anneal", 32, 3, 912, 16, 32),
    ]
    assert plan.total_steps == 35
    assert plan.stage_ends() == {26: "initial", 32: "long_context_16", 35: "anneal"}
    assert plan.averaged_steps() == (33, 35)
    assert dict(plan.segment(12).weights) == {"a": 1.0}
    assert dict(plan.segment(13).weights) == {"a": 0.5, "b": 0.5}
    assert [plan.learning_rate(step) for step in (32, 33, 34)] == pytest.approx(
        [small_recipe().learning_rate.at(32) * left / 3 for left in (3, 2, 1)]
    )


def test_a_recipe_of_one_batch_is_one_step():
    (segment,) = Plan(one_batch_recipe(sequence_length=32, rows=6, source="text")).segments
    assert (segment.num_steps, segment.sequence_length, segment.batch_rows) == (1, 32, 6)
    assert segment.weights == {"text": 1.0}


def test_rope_scaling_enters_where_asked():
    plan = Plan(small_recipe(rope_scaling_from="long_context"))
    assert [s.rope_scaling for s in plan.segments] == [False, False, False, True, True]
    assert all(s.rope_scaling for s in Plan(small_recipe()).segments)


def test_more_tokens_for_a_stage_leave_the_past_alone():
    before = Plan(small_recipe())
    longer = LongContext(stages=(ContextStage(sequence_length=16, tokens=400),))
    after = Plan(small_recipe(long_context=longer, total_tokens=1200))
    assert after.segments[:3] == before.segments[:3]
    assert after.segments[3].start_step == before.segments[3].start_step
    assert after.segments[3].num_steps > before.segments[3].num_steps


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_steps_tile_the_run(data):
    lengths = data.draw(st.lists(st.sampled_from([4, 8, 16, 32]), min_size=1, max_size=4))
    starts = sorted(data.draw(st.sets(st.integers(1, 5000), min_size=len(lengths) - 1, max_size=len(lengths) - 1)))
    ramp = tuple(
        RampStep(tokens=tokens, sequence_length=length, batch_tokens=length * data.draw(st.integers(1, 9)))
        for tokens, length in zip([0, *starts], lengths, strict=True)
    )
    stages = data.draw(st.lists(st.integers(1, 900), max_size=3))
    recipe = small_recipe(
        total_tokens=5000 + sum(stages),
        ramp=ramp,
        long_context=LongContext(
            stages=tuple(
                ContextStage(sequence_length=64 << i, tokens=tokens, batch_tokens=128 << i)
                for i, tokens in enumerate(stages)
            )
        ),
        anneal=Anneal(tokens=data.draw(st.integers(1, 300)), num_averaged=1),
    )
    plan = Plan(recipe)
    step = tokens = 0
    for segment in plan.segments:
        assert (segment.start_step, segment.start_tokens) == (step, tokens)
        step, tokens = segment.end_step, segment.end_tokens
        assert segment.num_steps > 0
        in_force = [entry for entry in ramp if entry.tokens <= segment.start_tokens][-1]
        if segment.stage == "initial":
            assert (segment.sequence_length, segment.batch_tokens) == (in_force.sequence_length, in_force.batch_tokens)
    assert [plan.segment(s).start_step <= s < plan.segment(s).end_step for s in range(plan.total_steps)].count(
        False
    ) == 0
    assert plan.tokens(plan.total_steps) == tokens
    assert tokens >= recipe.total_tokens
    assert len(plan.stage_ends()) == 2 + len(stages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_tokens": 300}, "leaves nothing for the initial stage"),
        ({"ramp": (RampStep(tokens=1, sequence_length=4, batch_tokens=4),)}, "ramp must start at 0 tokens"),
        ({"mixture": ()}, "mixture must start at 0"),
        ({"rope_scaling_from": "anneal"}, "rope_scaling_from"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_recipe(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RampStep(tokens=0, sequence_length=6, batch_tokens=16), "not a whole number of sequences of 6"),
        (lambda: MixtureStep(tokens=0, weights={"a": -1.0}), "non-negative"),
        (lambda: LearningRate(peak=1.0, final=2.0, warmup_steps=0, decay_steps=1), "final <= peak"),
        (lambda: LongContext(stages=(ContextStage(sequence_length=8, tokens=1),) * 2), "must grow"),
        (lambda: LongContext(gates=("vibes",)), "unknown gate 'vibes'"),
        (lambda: Anneal(num_averaged=2), "anneal.tokens is 0"),
    ],
)
def test_impossible_parts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_outside_the_run_are_refused():
    plan = Plan(small_recipe())
    with pytest.raises(ValueError, match="outside the run of 35 steps"):
        plan.segment(35)
    assert dataclasses.replace(plan.segments[0]) == plan.segments[0]

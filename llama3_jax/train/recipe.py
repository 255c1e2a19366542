"""The token-indexed plan (Llama 3, 3.4): what a run does at every step, as arithmetic.

Batch size, sequence length, data mixture and stage are functions of tokens seen; the learning rate is a function of the
step, which the same table gives. `Plan` turns a `RecipeConfig` into segments, runs of steps in which nothing but the
learning rate changes, so "where am I" is one integer and resuming is a lookup.

Stages: `initial` (warm-up and cosine, batch ramp), `long_context_S` for each longer length S, `anneal` (linear to 0).
A boundary falls on the first step that starts at or after its token count; no step is cut short.
"""

import bisect
import dataclasses
import math
from collections.abc import Mapping

GATES = ("short_context", "needle")  # conditions to end a long-context stage (3.4.2); filled by evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class RampStep:
    """From `tokens` seen on, batches of `batch_tokens` tokens in sequences of `sequence_length`."""

    tokens: int
    sequence_length: int
    batch_tokens: int

    def __post_init__(self):
        if self.sequence_length < 1 or self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a whole number of sequences of {self.sequence_length} tokens"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureStep:
    """From `tokens` seen on, sources are drawn with these weights (per token; normalised)."""

    tokens: int
    weights: dict[str, float]

    def __post_init__(self):
        if not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(f"mixture weights must be non-negative and not all zero, got {self.weights}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up to `peak`, cosine to `final` at `decay_steps` (counted from step 0), then constant."""

    peak: float
    final: float
    warmup_steps: int
    decay_steps: int

    def __post_init__(self):
        if not (0 <= self.final <= self.peak and 0 <= self.warmup_steps < self.decay_steps):
            raise ValueError(f"learning rate needs 0 <= final <= peak and warm-up shorter than decay, got {self}")

    def at(self, step: int) -> float:
        """Learning rate of `step`, the first step being 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps))
        return self.final + (self.peak - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextStage:
    """`tokens` trained at `sequence_length`. A stage whose gate fails is continued by giving it more tokens."""

    sequence_length: int
    tokens: int
    batch_tokens: int | None = None  # None keeps the ramp's last batch

    def __post_init__(self):
        if self.sequence_length < 1 or self.tokens < 1:
            raise ValueError(f"a long-context stage needs a length and tokens, got {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongContext:
    """Stages of growing sequence length (the paper: six, 8K to 128K, about 800B tokens), each ended by its gates."""

    stages: tuple[ContextStage, ...] = ()
    weights: dict[str, float] | None = None  # None keeps the mixture
    gates: tuple[str, ...] = ("short_context",)

    def __post_init__(self):
        lengths = [stage.sequence_length for stage in self.stages]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"long-context lengths must grow, got {lengths}")
        unknown = [gate for gate in self.gates if gate not in GATES]
        if unknown:
            raise ValueError(f"unknown gate {unknown[0]!r}; there are {', '.join(GATES)}")

    @property
    def tokens(self) -> int:
        """Tokens of all stages."""
        return sum(stage.tokens for stage in self.stages)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anneal:
    """The last `tokens` of the run: learning rate linear to 0, and `num_averaged` checkpoints averaged (Polyak)."""

    tokens: int = 0
    weights: dict[str, float] | None = None
    num_averaged: int = 0

    def __post_init__(self):
        if self.num_averaged and not self.tokens:
            raise ValueError("num_averaged asks for checkpoints of an annealing stage, but anneal.tokens is 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """A whole pre-training run, counted in tokens."""

    total_tokens: int
    ramp: tuple[RampStep, ...]
    mixture: tuple[MixtureStep, ...]
    learning_rate: LearningRate
    long_context: LongContext = LongContext()
    anneal: Anneal = Anneal()
    rope_scaling_from: str = "initial"  # first stage trained with the model's rope scaling (the paper does not say)

    def __post_init__(self):
        for name in ("ramp", "mixture"):
            starts = [step.tokens for step in getattr(self, name)]
            if not starts or starts[0] != 0 or starts != sorted(set(starts)):
                raise ValueError(f"{name} must start at 0 tokens and grow, got {starts}")
        if self.initial_tokens <= 0:
            raise ValueError(
                f"total_tokens {self.total_tokens:,} leaves nothing for the initial stage after long context "
                f"{self.long_context.tokens:,} and anneal {self.anneal.tokens:,}"
            )
        if self.rope_scaling_from not in ("initial", "long_context"):
            raise ValueError(f"rope_scaling_from must be initial or long_context, got {self.rope_scaling_from!r}")

    @property
    def initial_tokens(self) -> int:
        """Tokens of the first stage: what long context and annealing leave of the total."""
        return self.total_tokens - self.long_context.tokens - self.anneal.tokens


def one_batch_recipe(sequence_length: int, rows: int, source: str) -> RecipeConfig:
    """One step on `rows` sequences of `source`: what it takes to compile, measure or compare a train step."""
    tokens = rows * sequence_length
    return RecipeConfig(
        total_tokens=tokens,
        ramp=(RampStep(tokens=0, sequence_length=sequence_length, batch_tokens=tokens),),
        mixture=(MixtureStep(tokens=0, weights={source: 1.0}),),
        learning_rate=LearningRate(peak=1.0, final=1.0, warmup_steps=0, decay_steps=1),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of steps with one stage, batch shape and mixture."""

    stage: str
    start_step: int
    num_steps: int
    start_tokens: int
    sequence_length: int
    batch_tokens: int
    weights: Mapping[str, float]
    rope_scaling: bool

    @property
    def end_step(self) -> int:
        """First step after the segment."""
        return self.start_step + self.num_steps

    @property
    def end_tokens(self) -> int:
        """Tokens seen when the segment is over."""
        return self.start_tokens + self.num_steps * self.batch_tokens

    @property
    def batch_rows(self) -> int:
        """Sequences per batch."""
        return self.batch_tokens // self.sequence_length


class Plan:
    """A resolved recipe: look up any step's segment, tokens and learning rate."""

    def __init__(self, recipe: RecipeConfig):
        self.recipe = recipe
        self.segments = _segments(recipe)
        self._starts = [segment.start_step for segment in self.segments]
        anneal = [segment for segment in self.segments if segment.stage == "anneal"]
        self._anneal_start = anneal[0].start_step if anneal else self.total_steps

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.segments[-1].end_step

    def segment(self, step: int) -> Segment:
        """The segment of `step`. Raises ValueError outside the run."""
        if not 0 <= step < self.total_steps:
            raise ValueError(f"step {step} is outside the run of {self.total_steps} steps")
        return self.segments[bisect.bisect_right(self._starts, step) - 1]

    def tokens(self, step: int) -> int:
        """Tokens seen before `step` (also for the step after the last)."""
        if step == self.total_steps:
            return self.segments[-1].end_tokens
        segment = self.segment(step)
        return segment.start_tokens + (step - segment.start_step) * segment.batch_tokens

    def learning_rate(self, step: int) -> float:
        """Learning rate of `step`: the recipe's schedule, then linear to 0 over the annealing stage."""
        schedule = self.recipe.learning_rate
        if step < self._anneal_start:
            return schedule.at(step)
        left = (self.total_steps - step) / (self.total_steps - self._anneal_start)
        return schedule.at(self._anneal_start) * left

    def stage_ends(self) -> dict[int, str]:
        """`{step: stage}` for the step count at which each stage is over."""
        ends = {}
        for segment, following in zip(self.segments, (*self.segments[1:], None), strict=True):
            if following is None or following.stage != segment.stage:
                ends[segment.end_step] = segment.stage
        return ends

    def averaged_steps(self) -> tuple[int, ...]:
        """Step counts whose checkpoints are averaged into the final model: evenly spaced, the last one included."""
        count = min(self.recipe.anneal.num_averaged, self.total_steps - self._anneal_start)
        length = self.total_steps - self._anneal_start
        return tuple(self._anneal_start + length * (i + 1) // count for i in range(count))


def _segments(recipe: RecipeConfig) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    step = tokens = 0
    for stage, planned_end, ramp, mixture in _stages(recipe):
        end = max(planned_end, tokens + 1)  # every stage trains at least one step
        borders = sorted({entry.tokens for entry in (*ramp, *mixture) if tokens < entry.tokens < end} | {end})
        for border in borders:
            shape, blend = _in_force(ramp, tokens), _in_force(mixture, tokens)
            num_steps = math.ceil((border - tokens) / shape.batch_tokens)
            if num_steps <= 0:  # the step before already reached past this border
                continue
            segments.append(
                Segment(
                    stage=stage,
                    start_step=step,
                    num_steps=num_steps,
                    start_tokens=tokens,
                    sequence_length=shape.sequence_length,
                    batch_tokens=shape.batch_tokens,
                    weights=dict(blend.weights),
                    rope_scaling=recipe.rope_scaling_from == "initial" or stage != "initial",
                )
            )
            step, tokens = segments[-1].end_step, segments[-1].end_tokens
    return tuple(segments)


def _stages(recipe: RecipeConfig):
    """Every stage as (name, planned end in tokens, ramp, mixture); rounding to steps does not move planned ends."""
    yield "initial", recipe.initial_tokens, recipe.ramp, recipe.mixture
    shape, long_context, anneal = recipe.ramp[-1], recipe.long_context, recipe.anneal
    end = recipe.initial_tokens
    for stage in long_context.stages:
        end += stage.tokens
        batch_tokens = stage.batch_tokens or recipe.ramp[-1].batch_tokens
        shape = RampStep(tokens=0, sequence_length=stage.sequence_length, batch_tokens=batch_tokens)
        yield f"long_context_{stage.sequence_length}", end, (shape,), _mixture(recipe, long_context.weights)
    if anneal.tokens:
        shape = dataclasses.replace(shape, tokens=0)
        yield "anneal", recipe.total_tokens, (shape,), _mixture(recipe, anneal.weights)


def _mixture(recipe: RecipeConfig, weights: dict[str, float] | None) -> tuple[MixtureStep, ...]:
    return (MixtureStep(tokens=0, weights=weights),) if weights else recipe.mixture


def _in_force(entries, tokens: int):
    """The last entry that starts at or before `tokens`."""
    return [entry for entry in entries if entry.tokens <= tokens][-1]

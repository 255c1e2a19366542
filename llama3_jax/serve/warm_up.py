"""Requests that make an engine compile its programs before anybody waits for them."""

import itertools
from collections.abc import Iterator

import numpy as np

from llama3_jax.infer.generator import Generator
from llama3_jax.infer.request import Request, SamplingConfig
from llama3_jax.infer.scheduler import SchedulerConfig

# What most requests ask for: greedy, drawn, and drawn from the likeliest. Log-probabilities and penalties make other
# programs, which are compiled when the first request comes that needs them.
KINDS = (
    SamplingConfig(temperature=0.0, top_p=1.0),
    SamplingConfig(temperature=1.0, top_p=1.0),
    SamplingConfig(temperature=1.0, top_p=0.9),
)


def warm_up(generator: Generator) -> None:
    """Runs every number of rows and every length of piece, in powers of two as the engine rounds them."""
    config, vocabulary = generator.engine.config, generator.engine.model_config.vocab_size
    draw = np.random.default_rng(0)
    for kind in KINDS:
        for lengths, answers in _batches(config):
            prompts = [draw.integers(0, vocabulary, length).tolist() for length in lengths]
            generator.complete(
                [
                    Request(prompt=prompt, sampling=_longer(kind, answer))
                    for prompt, answer in zip(prompts, answers, strict=True)
                ]
            )


def _batches(config: SchedulerConfig) -> Iterator[tuple[list[int], list[int]]]:
    """Lengths of prompts and answers that run together."""
    longest = min(config.max_length, config.num_pages * config.page_size)
    together = min(config.num_slots, config.num_pages)
    # Answers of 1, 2, 3 … tokens: every number of rows decodes at some time.
    yield [2] * together, [min(1 + number, longest - 2) for number in range(together)]
    for piece in _powers(config.smallest_piece, config.prefill_tokens):
        length = min(piece, longest - 1)
        room = (config.num_pages * config.page_size) // (-(-(length + 1) // config.page_size) * config.page_size)
        for rows in _powers(1, min(config.num_slots, max(1, config.prefill_tokens // piece), max(1, room))):
            yield [length] * rows, [1] * rows


def _powers(first: int, last: int) -> Iterator[int]:
    """`first` times 1, 2, 4 … up to `last`."""
    return itertools.takewhile(lambda value: value <= last, (first * 2**number for number in itertools.count()))


def _longer(kind: SamplingConfig, tokens: int) -> SamplingConfig:
    """The same with so many tokens to write."""
    return SamplingConfig(temperature=kind.temperature, top_p=kind.top_p, max_new_tokens=tokens)

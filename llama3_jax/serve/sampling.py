"""Fields of a body that say how answers are drawn, for completions and chat alike.

Defaults are those of OpenAI's reference (temperature and top_p 1), whatever a model's own files suggest. `top_k`,
`min_p`, `repetition_penalty`, `stop_token_ids` and `ignore_eos` are named as in vLLM.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from llama3_jax.infer.request import RANGES, SamplingConfig
from llama3_jax.serve.fields import ApiError, Fields

MAX_ANSWERS = 128  # to one prompt
MAX_STOPS = 16
DEFAULTS = {
    "temperature": 1.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
LEAST_TEMPERATURE = 1e-5  # below it logits would overflow when divided; the likeliest token is what they mean
SEED_STEP = 0x9E3779B97F4A7C15  # apart, the seeds of one prompt's answers


def refuse_unsupported(fields: Fields) -> None:
    """Raises ApiError for fields that would change the answer, and that this server cannot honour."""
    fields.refuse("logit_bias", [{}], "no token can be made likelier")
    fields.refuse("use_beam_search", [False], "answers are drawn, not searched for")
    allowed = [{"type": "text"}]
    fields.refuse("response_format", allowed, "answers cannot be held to a format; ask for it in the prompt")


def read_sampling(fields: Fields, stop_ids: Sequence[int], **given: Any) -> SamplingConfig:
    """The settings that a body asks for; `given` are those that are read elsewhere (lengths, log-probabilities)."""
    numbers = {name: fields.number(name, default, *RANGES[name]) for name, default in DEFAULTS.items()}
    if numbers["temperature"] < LEAST_TEMPERATURE:
        numbers["temperature"] = 0.0
    low, high = RANGES["seed"]
    seed = fields.integer("seed", None, int(low), int(high))
    ends = fields.integers("stop_token_ids")
    try:
        return SamplingConfig(
            **numbers,
            **given,
            top_k=max(0, fields.integer("top_k", 0, -1, int(RANGES["top_k"][1]))),
            seed=secrets.randbits(63) if seed is None else seed,
            stop=fields.texts("stop", MAX_STOPS),
            stop_ids=ends if fields.boolean("ignore_eos") else (*stop_ids, *ends),
        )
    except ValueError as error:
        raise ApiError(400, str(error), param=str(error).split(" ")[0], code="invalid_value") from error


def seed_of(seed: int, number: int) -> int:
    """The seed of a prompt's answer `number`: the first one has the seed that was asked for."""
    return (seed + number * SEED_STEP + 2**63) % 2**64 - 2**63

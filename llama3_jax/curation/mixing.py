"""What part of training each kind of text is to be, and how often that reads it (Llama 3, 3.1.2 and 3.4.3)."""

import dataclasses
from collections.abc import Mapping

from llama3_jax.curation.judging import CATEGORIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Shares of tokens. `pretrain` is the paper's; for annealing it says only: more code and mathematics."""

    tokenizer: str | None = None  # file; None: no token stores are written
    num_shards: int = 8  # of each store
    total_tokens: int | None = None  # of training, for the count of epochs; None: of all stores together
    pretrain: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"general": 0.50, "math_reasoning": 0.25, "code": 0.17, "multilingual": 0.08}
    )
    anneal: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"general": 0.30, "math_reasoning": 0.35, "code": 0.30, "multilingual": 0.05}
    )

    def __post_init__(self):
        for name in ("pretrain", "anneal"):
            shares: Mapping[str, float] = getattr(self, name)
            if unknown := sorted(set(shares) - set(CATEGORIES)):
                raise ValueError(f"{name} has {unknown[0]!r}; there are {', '.join(CATEGORIES)}")
            if abs(sum(shares.values()) - 1) > 1e-6 or min(shares.values()) < 0:
                raise ValueError(f"{name}: shares must be positive and sum to 1, got {dict(shares)}")


@dataclasses.dataclass(frozen=True)
class Share:
    """A category's part of a mixture."""

    weight: float
    tokens: int  # that there are
    epochs: float  # how often the mixture reads each of them


def mixture(shares: Mapping[str, float], tokens: Mapping[str, int], total: int | None = None) -> dict[str, Share]:
    """The shares among the categories that have tokens, in the proportions of `shares`, over `total` tokens.

    Raises ValueError if none of them has any.
    """
    there = {name: share for name, share in shares.items() if tokens.get(name, 0) and share}
    if not there:
        raise ValueError(f"no category of the mixture ({', '.join(shares)}) has any tokens")
    whole = sum(there.values())
    total = total or sum(tokens[name] for name in there)
    return {
        name: Share(share / whole, tokens[name], total * share / whole / tokens[name]) for name, share in there.items()
    }

"""What the commands that generate have in common: a generator for a model that was loaded."""

from collections.abc import Sequence

from jax.sharding import Mesh

from llama3_jax.infer.engine import Engine
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.train.load import TrainedModel


def generator_of(trained: TrainedModel, mesh: Mesh, lengths: Sequence[int], num_slots: int = 32) -> Generator:
    """A generator for rows of these lengths in tokens, prompts and answers, with pages for `num_slots` of the longest.

    Raises ValueError when one is longer than the model's positions.
    """
    model, page_size = trained.model, SchedulerConfig().page_size
    longest, slots = max(lengths), min(num_slots, len(lengths))
    config = SchedulerConfig(num_slots=slots, num_pages=slots * -(-longest // page_size), max_length=longest)
    return Generator(Engine(model, trained.params, mesh, config), trained.tokenizer)

"""`configs/tiny.py` cut to one stage, for tests in which several processes train."""

import pathlib
import runpy

TINY = pathlib.Path(__file__).parents[2] / "configs" / "tiny.py"


def get_config(variant: str = ""):
    """One hundred steps of 512 tokens, a checkpoint every 50."""
    config = runpy.run_path(str(TINY))["get_config"](variant)
    config.recipe.total_tokens = 100 * 512
    config.recipe.ramp = ({"tokens": 0, "sequence_length": 32, "batch_tokens": 512},)
    config.recipe.long_context.stages = ()
    config.recipe.anneal.tokens = config.recipe.anneal.num_averaged = 0
    config.checkpoint.every_steps = 50
    return config

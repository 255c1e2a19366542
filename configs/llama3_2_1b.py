"""Llama 3.2 1B (the paper's recipe; Meta pruned and distilled this one), pre-trained by the paper's recipe.

llama3 pretrain --config=configs/llama3_2_1b.py --explain
llama3 pretrain --config=configs/llama3_2_1b.py --config.workdir=gs://BUCKET/RUN
"""

from llama3_jax.core.config import thaw
from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.train.paper import herd_run


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/llama3_2_1b.py has no variant {variant!r}")
    return thaw(herd_run("llama3_2_1b", HERD["llama3_2_1b"], "1b", mesh=MeshConfig(tensor=1), long_context=True))

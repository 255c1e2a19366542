"""Llama 3.2 3B (the paper's recipe; Meta pruned and distilled this one), pre-trained by the paper's recipe.

llama3 pretrain --config=configs/llama3_2_3b.py --explain
llama3 pretrain --config=configs/llama3_2_3b.py --config.workdir=gs://BUCKET/RUN
"""

from llama3_jax.core.config import thaw
from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.train.paper import herd_run


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/llama3_2_3b.py has no variant {variant!r}")
    return thaw(herd_run("llama3_2_3b", HERD["llama3_2_3b"], "3b", mesh=MeshConfig(tensor=1), long_context=True))

"""Llama 3 70B, pre-trained by the paper's recipe.

llama3 pretrain --config=configs/llama3_70b.py --explain
llama3 pretrain --config=configs/llama3_70b.py --config.workdir=gs://BUCKET/RUN
"""

from llama3_jax.core.config import thaw
from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.train.paper import herd_run


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/llama3_70b.py has no variant {variant!r}")
    return thaw(herd_run("llama3_70b", HERD["llama3_70b"], "70b", mesh=MeshConfig(tensor=4), long_context=False))

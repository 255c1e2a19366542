"""Llama 3 8B, pre-trained by the paper's recipe.

llama3 pretrain --config=configs/llama3_8b.py --explain
llama3 pretrain --config=configs/llama3_8b.py --config.workdir=gs://BUCKET/RUN
"""

from llama3_jax.core.config import thaw
from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.train.paper import herd_run


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/llama3_8b.py has no variant {variant!r}")
    return thaw(herd_run("llama3_8b", HERD["llama3_8b"], "8b", mesh=MeshConfig(tensor=1), long_context=False))

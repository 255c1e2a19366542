"""Llama 3.1 405B, pre-trained by the paper's recipe.

llama3 pretrain --config=configs/llama3_1_405b.py --explain
llama3 pretrain --config=configs/llama3_1_405b.py --config.workdir=gs://BUCKET/RUN
"""

from llama3_jax.core.config import thaw
from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.train.paper import herd_run


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/llama3_1_405b.py has no variant {variant!r}")
    return thaw(herd_run("llama3_1_405b", HERD["llama3_1_405b"], "405b", mesh=MeshConfig(tensor=8), long_context=True))

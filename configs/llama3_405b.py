"""Llama 3 405B, the paper's flagship (trained to 131,072 tokens), pre-trained by the paper's recipe.

    llama3 pretrain --config=configs/llama3_405b.py --explain
    llama3 pretrain --config=configs/llama3_405b.py --config.workdir=gs://BUCKET/RUN

The paper's 405B was extended to 131,072 tokens; its shape here is Llama 3.1's, which has the rotary scaling.

The variants table4_row1, table4_row2 and table4_row3 are one batch of the paper's three layouts (Table 4), to compile:

    llama3 compile --config=configs/llama3_405b.py:table4_row1 --topology=h100x8192
"""

import dataclasses

from llama3_jax.core.config import thaw
from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.llama import HERD
from llama3_jax.parallel.schedule import PipelineConfig
from llama3_jax.train.paper import herd_run
from llama3_jax.train.recipe import one_batch_recipe

# 126 layers over 16 stages of 8 chunks: one layer each, the first and the last chunk having none. At 8,192 tokens no
# product is computed twice; at 131,072 the backward pass starts from the layers' inputs.
TABLE_4 = {  # mesh (data parallelism is fsdp), sequence length, remat
    "table4_row1": (MeshConfig(fsdp=64, stage=16, tensor=8), 8192, "dots"),
    "table4_row2": (MeshConfig(fsdp=128, stage=16, tensor=8), 8192, "dots"),
    "table4_row3": (MeshConfig(fsdp=8, stage=16, context=16, tensor=8), 131_072, "full"),
}
VARIANTS = ("", *TABLE_4)
BATCH_TOKENS = 2**24


def get_config(variant: str = ""):
    """The whole recipe, or one batch in a layout of Table 4."""
    run = herd_run("llama3_405b", HERD["llama3_1_405b"], "405b", mesh=MeshConfig(tensor=8), long_context=True)
    if not variant:
        return thaw(run)
    if variant not in TABLE_4:
        raise ValueError(f"configs/llama3_405b.py has no variant {variant!r}; there are {', '.join(TABLE_4)}")
    mesh, length, remat = TABLE_4[variant]
    run = dataclasses.replace(
        run,
        mesh=mesh,
        pipeline=PipelineConfig(chunks=8),
        compute=dataclasses.replace(run.compute, remat=remat),
        micro_batch_tokens=mesh.fsdp * length,
        recipe=one_batch_recipe(length, BATCH_TOKENS // length, "general"),
    )
    return thaw(run)

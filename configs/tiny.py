"""Every part of the recipe in seconds, for tests and for trying a change.

    llama3 pretrain --config=configs/tiny.py --config.data.tokenizer=... --config.data.sources.text=...

Variants: llama3 (the default), llama3_1 (rotary scaling), llama3_2 (rotary scaling and tied head).
"""

import dataclasses

from llama3_jax.core.config import thaw
from llama3_jax.model.layers import ComputeConfig, RopeScaling
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.train.checkpoint import CheckpointConfig
from llama3_jax.train.recipe import (
    Anneal,
    ContextStage,
    LearningRate,
    LongContext,
    MixtureStep,
    RampStep,
    RecipeConfig,
)
from llama3_jax.train.run_config import DataConfig, EvaluationConfig, PretrainConfig

LLAMA3 = LlamaConfig(
    vocab_size=512, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=64, max_length=128
)
LLAMA3_1 = dataclasses.replace(LLAMA3, rope_scaling=RopeScaling(factor=8.0, original_length=32))
VARIANTS = {
    "": LLAMA3,
    "llama3": LLAMA3,
    "llama3_1": LLAMA3_1,
    "llama3_2": dataclasses.replace(LLAMA3_1, tied=True),
}


def get_config(variant: str = ""):
    """A tiny run of the variant's shape."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/tiny.py has no variant {variant!r}; there are {', '.join(filter(None, VARIANTS))}")
    config = PretrainConfig(
        workdir="runs/tiny/model",
        model=VARIANTS[variant],
        compute=ComputeConfig(attention="auto", compute_dtype="float32", loss_chunk=128),
        data=DataConfig(
            tokenizer="runs/tiny/tokenizer.model",
            sources={"text": "runs/tiny/tokens/train"},
            held_out="runs/tiny/tokens/held_out",
            num_workers=0,
        ),
        recipe=RecipeConfig(
            total_tokens=12_288,
            ramp=(
                RampStep(tokens=0, sequence_length=16, batch_tokens=256),
                RampStep(tokens=2048, sequence_length=32, batch_tokens=512),
            ),
            mixture=(MixtureStep(tokens=0, weights={"text": 1.0}),),
            learning_rate=LearningRate(peak=3e-3, final=3e-4, warmup_steps=4, decay_steps=30),
            long_context=LongContext(stages=(ContextStage(sequence_length=64, tokens=2048),)),
            anneal=Anneal(tokens=2048, num_averaged=2),
        ),
        micro_batch_tokens=512,
        checkpoint=CheckpointConfig(every_steps=5, keep_last=2),
        evaluation=EvaluationConfig(rows=16, recovery=1.5),
    )
    return thaw(config)

"""The quickstart: a small Llama 3 on the standard library and its documentation, every stage of the recipe in minutes.

    make quickstart

Three million parameters on two CPU cores: batch and length ramp, a long-context stage behind its gate, annealing with
checkpoint averaging. The stages are the paper's, the sizes are not.
"""

from llama3_jax.core.config import thaw
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.train.checkpoint import CheckpointConfig
from llama3_jax.train.optim import OptimizerConfig
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

FOLDER = "runs/quickstart"


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/quickstart.py has no variant {variant!r}")
    config = PretrainConfig(
        workdir=f"{FOLDER}/model",
        model=LlamaConfig(
            vocab_size=4096,
            num_layers=4,
            embed_dim=192,
            num_heads=6,
            num_kv_heads=2,
            head_dim=32,
            mlp_dim=512,
            max_length=1024,
        ),
        compute=ComputeConfig(attention="auto", compute_dtype="float32", remat="none", loss_chunk=1024),
        data=DataConfig(
            tokenizer=f"{FOLDER}/tokenizer.model",
            sources={"sources": f"{FOLDER}/tokens/train", "documentation": f"{FOLDER}/tokens/documentation"},
            held_out=f"{FOLDER}/tokens/held_out",
            num_workers=0,
        ),
        recipe=RecipeConfig(
            total_tokens=2_400_000,
            ramp=(
                RampStep(tokens=0, sequence_length=128, batch_tokens=2048),
                RampStep(tokens=400_000, sequence_length=256, batch_tokens=4096),
            ),
            mixture=(MixtureStep(tokens=0, weights={"sources": 0.85, "documentation": 0.15}),),
            learning_rate=LearningRate(peak=3e-3, final=6e-4, warmup_steps=40, decay_steps=800),
            long_context=LongContext(stages=(ContextStage(sequence_length=512, tokens=300_000),)),
            anneal=Anneal(tokens=500_000, num_averaged=3),
        ),
        optimizer=OptimizerConfig(epsilon=1e-8),
        checkpoint=CheckpointConfig(every_steps=200, keep_last=2),
        evaluation=EvaluationConfig(rows=128),
    )
    return thaw(config)

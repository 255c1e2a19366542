"""The paper's pre-training recipe as data (Llama 3, 3.2 to 3.4), for the configs of the herd."""

from llama3_jax.core.sharding import MeshConfig
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.train.recipe import (
    Anneal,
    ContextStage,
    LearningRate,
    LongContext,
    MixtureStep,
    RampStep,
    RecipeConfig,
)
from llama3_jax.train.run_config import DataConfig, PretrainConfig

TOTAL_TOKENS = 15_600_000_000_000
LONG_CONTEXT_TOKENS = 800_000_000_000
ANNEAL_TOKENS = 40_000_000  # as printed; 3.1.3 anneals over 40B in its experiments (a config value for that reason)

# Table 3. The 3.2 models were pruned and distilled, not trained like this; their rate is ours.
PEAK_LEARNING_RATE = {"8b": 3e-4, "70b": 1.5e-4, "405b": 8e-5, "1b": 3e-4, "3b": 3e-4}

# 4M tokens at 4,096; 8M at 8,192 after 252M tokens; 16M after 2.87T.
RAMP = (
    RampStep(tokens=0, sequence_length=4096, batch_tokens=2**22),
    RampStep(tokens=252_000_000, sequence_length=8192, batch_tokens=2**23),
    RampStep(tokens=2_870_000_000_000, sequence_length=8192, batch_tokens=2**24),
)

# 3.1.2: about half general knowledge, a quarter mathematics and reasoning, 17% code, 8% multilingual.
MIXTURE = {"general": 0.50, "math_reasoning": 0.25, "code": 0.17, "multilingual": 0.08}

# 3.4.3 upsamples code and mathematics of very high quality; the paper gives no shares.
ANNEAL_MIXTURE = {"general": 0.30, "math_reasoning": 0.40, "code": 0.25, "multilingual": 0.05}

# Six stages from 8K to 128K; the paper names neither the lengths between nor the tokens of each. Batches stay at 16M
# tokens, or the nearest count that is a whole number of sequences on every data-parallel group of Table 4.
CONTEXT_STAGES = tuple(
    ContextStage(sequence_length=length, tokens=LONG_CONTEXT_TOKENS // 6, batch_tokens=batch_tokens)
    for length, batch_tokens in (
        (16_384, 2**24),
        (32_768, 2**24),
        (49_152, 336 * 49_152),
        (65_536, 2**24),
        (98_304, 168 * 98_304),
        (131_072, 2**24),
    )
)


def recipe(size: str, *, long_context: bool = True, ramp: tuple[RampStep, ...] = RAMP) -> RecipeConfig:
    """The recipe of a member of the herd, `size` being a key of `PEAK_LEARNING_RATE`.

    Without `long_context` it ends at 8,192 tokens, as Llama 3 did; with it, at 131,072, as Llama 3.1. Rotary scaling
    enters with the long-context stages.
    """
    peak = PEAK_LEARNING_RATE[size]
    return RecipeConfig(
        total_tokens=TOTAL_TOKENS,
        ramp=ramp,
        mixture=(MixtureStep(tokens=0, weights=MIXTURE),),
        learning_rate=LearningRate(peak=peak, final=peak / 100, warmup_steps=8000, decay_steps=1_200_000),
        long_context=LongContext(stages=CONTEXT_STAGES if long_context else ()),
        anneal=Anneal(tokens=ANNEAL_TOKENS, weights=ANNEAL_MIXTURE, num_averaged=3),
        rope_scaling_from="long_context",
    )


def herd_run(name: str, model: LlamaConfig, size: str, *, mesh: MeshConfig, long_context: bool) -> PretrainConfig:
    """A member of the herd trained by the paper's recipe; paths are relative to where it is started."""
    return PretrainConfig(
        workdir=f"runs/{name}",
        model=model,
        mesh=mesh,
        compute=ComputeConfig(attention="auto", remat="full"),
        data=DataConfig(
            tokenizer="tokenizer.model",
            sources={source: f"data/tokens/{source}" for source in MIXTURE},
            held_out="data/tokens/held_out",
            verify="quick",
        ),
        recipe=recipe(size, long_context=long_context),
    )

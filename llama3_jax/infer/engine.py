"""Generation with a dense KV cache: one compiled prefill, one compiled decode step, no policy.

Prompts of different lengths share a batch: rows are filled on the right, and every token's place decides what it sees.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llama3_jax.core.params import Params
from llama3_jax.infer.sampling import SamplingConfig, sample
from llama3_jax.model.cache import init_cache
from llama3_jax.model.llama import Llama, LlamaConfig

LENGTH_STEP = 64  # prompts and caches are rounded up to this many places, so few programs are compiled


class Engine:
    """Generates with one model. `graphdef` and `params` are `split_module`'s two halves."""

    def __init__(self, config: LlamaConfig, graphdef: Any, params: Params, cache_dtype: Any):
        self.config, self.params, self.cache_dtype = config, params, cache_dtype

        def forward(params, tokens_BS, index_BS, last_B, cache):
            model: Llama = nnx.merge(graphdef, params)
            x_BSD, cache = model.hidden_cached(tokens_BS, index_BS, cache)
            x_B1D = jnp.take_along_axis(x_BSD, last_B[:, None, None], axis=1)
            return model.logits(x_B1D)[:, 0], cache

        def decode(params, token_B, index_B, cache, key, temperature, top_p):
            zero_B = jnp.zeros_like(index_B)
            logits_BV, cache = forward(params, token_B[:, None], index_B[:, None], zero_B, cache)
            return sample(logits_BV, key, temperature, top_p), cache

        self._prefill: Callable = jax.jit(forward, donate_argnums=4)
        self._decode: Callable = jax.jit(decode, donate_argnums=3)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, stop_ids: Sequence[int] = ()
    ) -> Iterator[np.ndarray]:
        """Yields the next token of every row, int32 `[B]`, until all rows have stopped; a stopped row yields -1.

        A row stops after a token of `stop_ids` (which is yielded) or after `max_new_tokens`. Raises ValueError for an
        empty prompt, a token outside the vocabulary, and a prompt that leaves no room for the answer.
        """
        self._check(prompts, sampling)
        lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
        tokens_BS = np.zeros((len(prompts), _rounded(int(lengths_B.max()))), np.int32)
        for row, prompt in enumerate(prompts):
            tokens_BS[row, : len(prompt)] = prompt
        cache = self._empty_cache(len(prompts), int(lengths_B.max()) + sampling.max_new_tokens)
        index_BS = np.broadcast_to(np.arange(tokens_BS.shape[1], dtype=np.int32), tokens_BS.shape)
        logits_BV, cache = self._prefill(self.params, tokens_BS, index_BS, lengths_B - 1, cache)
        key = jax.random.key(sampling.seed)
        settings = (np.float32(sampling.temperature), np.float32(sampling.top_p))
        token_B = sample(logits_BV, jax.random.fold_in(key, 0), *settings)
        stopped_B = np.zeros(len(prompts), bool)
        for count in range(1, sampling.max_new_tokens + 1):
            seen_B = np.asarray(token_B)
            yield np.where(stopped_B, -1, seen_B)
            stopped_B |= np.isin(seen_B, np.asarray(list(stop_ids), np.int32))
            if stopped_B.all() or count == sampling.max_new_tokens:
                return
            step_key = jax.random.fold_in(key, count)
            token_B, cache = self._decode(self.params, token_B, lengths_B + count - 1, cache, step_key, *settings)

    def _empty_cache(self, batch: int, length: int):
        c = self.config
        return init_cache(c.num_layers, batch, _rounded(length), c.num_kv_heads, c.head_dim, self.cache_dtype)

    def _check(self, prompts, sampling):
        if not prompts:
            raise ValueError("there is no prompt")
        for prompt in prompts:
            if not len(prompt):
                raise ValueError("a prompt is empty; give at least <|begin_of_text|>")
            if min(prompt) < 0 or max(prompt) >= self.config.vocab_size:
                raise ValueError(f"a prompt has a token outside the vocabulary of {self.config.vocab_size}")
            if len(prompt) + sampling.max_new_tokens > self.config.max_length:
                raise ValueError(
                    f"a prompt of {len(prompt)} tokens and {sampling.max_new_tokens} new ones exceed the model's "
                    f"max_length {self.config.max_length}"
                )


def _rounded(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP

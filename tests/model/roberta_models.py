"""Tiny encoders, ours and Hugging Face's, with the same random weights."""

import numpy as np
import pytest

from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.roberta import RobertaConfig

COMPUTE = ComputeConfig(compute_dtype="float32", attention="reference", remat="none")
TINY = RobertaConfig(
    vocab_size=300, num_layers=2, embed_dim=32, num_heads=4, mlp_dim=64, num_positions=66, num_labels=1
)


def hugging_face(config: RobertaConfig, kind: str | None = None, seed: int = 0):
    """`transformers.RobertaForSequenceClassification` or another class, every array random (biases and norms too)."""
    torch = pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
    transformers = pytest.importorskip("transformers")
    kind = kind or ("RobertaForSequenceClassification" if config.num_labels else "RobertaModel")
    settings = transformers.RobertaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.embed_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_dim,
        max_position_embeddings=config.num_positions,
        pad_token_id=config.pad_id,
        layer_norm_eps=config.norm_eps,
        type_vocab_size=1,
        attn_implementation="eager",
        num_labels=config.num_labels or 2,
    )
    model = getattr(transformers, kind)(settings).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.copy_(drawn + (1.0 if name.endswith("LayerNorm.weight") else 0.0))
    return model


def numpy_state(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def rows(config: RobertaConfig, lengths, width: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens `[B, S]`, padded on the right, and their lengths."""
    lengths = np.asarray(lengths, np.int32)
    width = width or int(lengths.max())
    tokens = (
        np.random.default_rng(seed)
        .integers(max(2, config.pad_id) + 1, config.vocab_size, (len(lengths), width))
        .astype(np.int32)
    )
    return np.where(np.arange(width) < lengths[:, None], tokens, config.pad_id).astype(np.int32), lengths

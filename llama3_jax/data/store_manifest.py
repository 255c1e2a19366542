"""The manifest of a token store (llama3_jax.data.token_store): what it holds, and which tokenizer made it."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard's line in the manifest; `sha256` is over its tokens, then its offsets, both little-endian."""

    name: str
    num_tokens: int
    num_documents: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds. Totals are sums over `shards`; `num_bytes` counts the text the tokens came from."""

    format_version: int
    tokenizer_fingerprint: str
    vocab_size: int
    dtype: str
    num_tokens: int
    num_documents: int
    num_bytes: int
    shards: tuple[ShardInfo, ...]

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the manifest, and so of every token in the store."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str) -> "Manifest":
        """Raises ValueError naming `origin` if the text is cut off, of another version, or contradicts itself."""
        try:
            fields = json.loads(text)
            version = fields["format_version"]
            manifest = cls(**{**fields, "shards": tuple(ShardInfo(**shard) for shard in fields["shards"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{origin} is not a whole token store manifest: {error}.") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{origin} has format version {version}; this code reads version {FORMAT_VERSION}.")
        for total in ("num_tokens", "num_documents", "num_bytes"):
            if getattr(manifest, total) != sum(getattr(shard, total) for shard in manifest.shards):
                raise ValueError(f"{origin} contradicts itself: {total} is not the sum over its shards.")
        if manifest.dtype != token_dtype(manifest.vocab_size).name:
            raise ValueError(f"{origin} contradicts itself: dtype {manifest.dtype} for {manifest.vocab_size} tokens.")
        return manifest


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest dtype a store uses for this vocabulary: uint16 up to 65,536 entries, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)

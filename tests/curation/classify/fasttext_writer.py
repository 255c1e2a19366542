"""Writes small fastText models with random weights, in the bytes that fastText itself would write."""

import struct
from pathlib import Path

import numpy as np

LOSSES = {"hierarchical_softmax": 1, "negative_sampling": 2, "softmax": 3, "one_vs_all": 4}
WORDS = ["</s>", "the", "cat", "sat", "on", "mat", "кот", "été", "是", "ที่", "मैं"]
LABELS = {"__label__en": 90, "__label__ru": 40, "__label__fr": 40, "__label__zh": 11, "__label__th": 3}
BUCKETS = 400


def write_model(
    path: Path,
    *,
    loss: str,
    word_ngrams: int = 1,
    chars: tuple[int, int] = (0, 0),
    dim: int = 7,
    quantised: bool = False,
    norms: bool = False,
    quantised_output: bool = False,
    pruned: bool = False,
    seed: int = 0,
) -> Path:
    rng = np.random.default_rng(seed)
    kept = rng.permutation(BUCKETS)[: BUCKETS // 3] if pruned else np.arange(BUCKETS)
    parts = [struct.pack("<2i", 793712314, 12)]
    parts.append(
        struct.pack("<12id", dim, 5, 5, 1, 5, word_ngrams, LOSSES[loss], 3, BUCKETS, chars[0], chars[1], 100, 1e-4)
    )
    pruned_size = len(kept) if pruned else -1
    parts.append(struct.pack("<3i2q", len(WORDS) + len(LABELS), len(WORDS), len(LABELS), 1000, pruned_size))
    parts += [word.encode() + b"\0" + struct.pack("<qb", 10, 0) for word in WORDS]
    parts += [label.encode() + b"\0" + struct.pack("<qb", count, 1) for label, count in LABELS.items()]
    if pruned:
        parts += [struct.pack("<2i", bucket, row) for row, bucket in enumerate(kept.tolist())]
    rows = len(WORDS) + len(kept)
    parts += [struct.pack("<?", quantised), _matrix(rng, rows, dim, quantised, norms)]
    parts += [struct.pack("<?", quantised_output), _matrix(rng, len(LABELS), dim, quantised_output, norms)]
    path.write_bytes(b"".join(parts))
    return path


def _matrix(rng: np.random.Generator, rows: int, dim: int, quantised: bool, norms: bool) -> bytes:
    if not quantised:
        return struct.pack("<2q", rows, dim) + rng.normal(size=(rows, dim)).astype("<f4").tobytes()
    num_parts = -(-dim // 3)
    codes = rng.integers(0, 256, (rows, num_parts), dtype=np.uint8)
    data = struct.pack("<?2qi", norms, rows, dim, codes.size) + codes.tobytes() + _quantiser(rng, dim, 3)
    if norms:
        data += rng.integers(0, 256, rows, dtype=np.uint8).tobytes() + _quantiser(rng, 1, 1)
    return data


def _quantiser(rng: np.random.Generator, dim: int, width: int) -> bytes:
    shape = struct.pack("<4i", dim, -(-dim // width), width, dim % width or width)
    return shape + rng.normal(size=dim * 256).astype("<f4").tobytes()

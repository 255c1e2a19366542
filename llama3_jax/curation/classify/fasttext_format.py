"""The files of fastText's supervised models: `.bin`, and `.ftz`, whose matrices are product-quantised.

Little-endian: magic and version, settings, dictionary (words, then labels, each zero-terminated with count and type;
after pruning a table bucket -> row), input matrix, output matrix. A file that does not hold together raises ValueError.
"""

import dataclasses
import struct
from pathlib import Path

import numpy as np

MAGIC = 793712314
VERSIONS = (11, 12)
SUPERVISED = 3
LOSSES = {1: "hierarchical_softmax", 2: "negative_sampling", 3: "softmax", 4: "one_vs_all"}
SETTINGS = struct.Struct("<12id")  # dim ws epoch minCount neg wordNgrams loss model bucket minn maxn lrUpdateRate t
DICTIONARY = struct.Struct("<3i2q")  # entries, words, labels, tokens seen, pruned buckets (-1: never pruned)
ENTRY = struct.Struct("<qb")  # count, type
LABEL_TYPE = 1
NUM_CENTROIDS = 256
MAX_BUCKETS = 1 << 28  # a hundred times what models have; a spoilt file may say anything
MAX_LABEL_COUNTS = 10**15 - 1  # fastText's tree of labels takes more for infinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastTextFile:
    """What a file says. Letters: W words, L labels, R rows, D the model's dim."""

    dim: int
    word_ngrams: int  # the longest; 1: words alone
    min_chars: int  # of n-grams of characters
    max_chars: int  # 0: there are none
    num_buckets: int
    loss: str  # one of LOSSES
    words: list[bytes]
    labels: list[bytes]
    label_counts: np.ndarray  # int64 [L]
    bucket_rows: np.ndarray | None  # int32 [buckets], the row after the words' or -1 if pruned; None: nothing is pruned
    input_RD: np.ndarray  # float32, words and then buckets
    output_LD: np.ndarray  # float32


class _Cursor:
    """Reads a buffer from front to back."""

    def __init__(self, data: bytes, name: str):
        self.data, self.name, self.position = data, name, 0

    def unpack(self, layout: struct.Struct) -> tuple:
        return layout.unpack(self.take(layout.size))

    def take(self, size: int) -> memoryview:
        stop = self.position + size
        if size < 0 or stop > len(self.data):
            raise ValueError(f"{self.name}: ends within {size} bytes at {self.position}")
        part = memoryview(self.data)[self.position : stop]
        self.position = stop
        return part

    def array(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def word(self) -> bytes:
        stop = self.data.find(b"\0", self.position)
        if stop < 0:
            raise ValueError(f"{self.name}: ends within a word of its dictionary")
        found = self.data[self.position : stop]
        self.position = stop + 1
        return found


def read_fasttext(path: str | Path) -> FastTextFile:
    """Reads a supervised model into memory; quantised matrices are decoded to float32.

    Raises ValueError for another kind of file or model, and for one that is cut short.
    """
    cursor = _Cursor(Path(path).read_bytes(), str(path))
    magic, version = cursor.unpack(struct.Struct("<2i"))
    if magic != MAGIC or version not in VERSIONS:
        raise ValueError(f"{path}: not a fastText model of version {VERSIONS}: magic {magic}, version {version}")
    dim, _, _, _, _, word_ngrams, loss, model, num_buckets, min_chars, max_chars, _, _ = cursor.unpack(SETTINGS)
    if num_buckets > MAX_BUCKETS:
        raise ValueError(f"{path}: {num_buckets} buckets, more than {MAX_BUCKETS}")
    if model != SUPERVISED or loss not in LOSSES:
        raise ValueError(f"{path}: not a supervised classifier: model {model}, loss {loss}")
    words, labels, counts, bucket_rows = _dictionary(cursor, num_buckets)
    (quantised,) = cursor.unpack(struct.Struct("<?"))
    if bucket_rows is not None and not quantised:
        raise ValueError(f"{path}: pruned but not quantised, which fastText itself refuses")
    input_RD = _matrix(cursor, quantised)
    (output_quantised,) = cursor.unpack(struct.Struct("<?"))
    output_LD = _matrix(cursor, quantised and output_quantised)
    has_ngrams = word_ngrams > 1 or max_chars > 0
    kept = num_buckets if bucket_rows is None else int(bucket_rows.max(initial=-1)) + 1
    if input_RD.shape[0] < len(words) + kept * has_ngrams or input_RD.shape[1] != dim or num_buckets < has_ngrams:
        raise ValueError(f"{path}: input matrix {input_RD.shape} for {len(words)} words, {kept} buckets, dim {dim}")
    if output_LD.shape != (len(labels), dim):
        raise ValueError(f"{path}: output matrix {output_LD.shape} for {len(labels)} labels, dim {dim}")
    return FastTextFile(
        dim=dim,
        word_ngrams=word_ngrams,
        min_chars=min_chars,
        max_chars=0 if version == 11 else max_chars,  # supervised models of version 11 ignored their subwords
        num_buckets=num_buckets,
        loss=LOSSES[loss],
        words=words,
        labels=labels,
        label_counts=counts,
        bucket_rows=bucket_rows,
        input_RD=input_RD,
        output_LD=output_LD,
    )


def _dictionary(cursor: _Cursor, num_buckets: int) -> tuple[list[bytes], list[bytes], np.ndarray, np.ndarray | None]:
    """Words, labels, counts of the labels, and the row of each bucket."""
    num_entries, num_words, num_labels, _, num_pruned = cursor.unpack(DICTIONARY)
    names, counts, types = [], [], []
    for _ in range(num_entries):
        names.append(cursor.word())
        count, kind = cursor.unpack(ENTRY)
        counts.append(count)
        types.append(kind)
    if num_words + num_labels != num_entries or types != [0] * num_words + [LABEL_TYPE] * num_labels:
        raise ValueError(f"{cursor.name}: the dictionary is not {num_words} words and then {num_labels} labels")
    if num_labels < 1 or min(counts[num_words:]) < 0 or sum(counts[num_words:]) > MAX_LABEL_COUNTS:
        raise ValueError(f"{cursor.name}: {num_labels} labels of counts {counts[num_words:][:9]}")
    bucket_rows = None
    if num_pruned >= 0:
        pairs = cursor.array("<i4", 2 * num_pruned).reshape(-1, 2)
        if pairs.size and (pairs.min() < 0 or pairs[:, 0].max() >= num_buckets):
            raise ValueError(f"{cursor.name}: a pruned bucket lies outside of {num_buckets}")
        bucket_rows = np.full(num_buckets, -1, np.int32)
        bucket_rows[pairs[:, 0]] = pairs[:, 1]
    return names[:num_words], names[num_words:], np.array(counts[num_words:], np.int64), bucket_rows


def _matrix(cursor: _Cursor, quantised: bool) -> np.ndarray:
    """float32 [rows, dim]."""
    if not quantised:
        rows, dim = cursor.unpack(struct.Struct("<2q"))
        return cursor.array("<f4", rows * dim).reshape(rows, dim).astype(np.float32)
    has_norms, rows, dim, num_codes = cursor.unpack(struct.Struct("<?2qi"))
    codes = cursor.array("u1", num_codes)
    matrix = _decode(cursor, codes, rows, dim)
    if has_norms:
        norm_codes = cursor.array("u1", rows)
        matrix *= _decode(cursor, norm_codes, rows, 1)
    return matrix


def _decode(cursor: _Cursor, codes: np.ndarray, rows: int, dim: int) -> np.ndarray:
    """float32 [rows, dim] from one code per sub-vector: each indexes 256 centroids (Jégou et al. 2011)."""
    full, num_parts, width, last_width = cursor.unpack(struct.Struct("<4i"))
    centroids = cursor.array("<f4", max(full, 0) * NUM_CENTROIDS)
    if full != dim or codes.size != rows * num_parts or (num_parts - 1) * width + last_width != dim:
        raise ValueError(f"{cursor.name}: a quantiser of {num_parts} parts of {width} does not make {rows} x {dim}")
    codes, matrix = codes.reshape(rows, num_parts), np.empty((rows, dim), np.float32)
    for part in range(num_parts):
        start = part * width
        stop = dim if part == num_parts - 1 else start + width
        table = centroids[start * NUM_CENTROIDS : stop * NUM_CENTROIDS].reshape(NUM_CENTROIDS, stop - start)
        matrix[:, start:stop] = table[codes[:, part]]
    return matrix

"""The Llama 3 tokenizer: byte-level BPE over tiktoken, with 256 special tokens after the learned ones (paper §3.2).

One class serves Meta's `tokenizer.model`, Hugging Face's `tokenizer.json` and tokenizers we train ourselves. Its ids
equal `llama_models.llama3.tokenizer` on every string, also where that one cuts very long text. A vocabulary of
`num_bpe` learned tokens has ids 0 … num_bpe - 1 (id = merge priority), then the special tokens; Meta's has 128,000.
"""

import base64
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken
import tokenizers

# cl100k's split, with digit runs of at most three. Source: llama_models.llama3.tokenizer.Tokenizer.pat_str.
SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

NUM_SPECIAL = 256
# In id order; the rest, up to 256, are `<|reserved_special_token_2|>` onwards. Releases differ in two places: Hugging
# Face's 3.1 files call the sixth and the twelfth reserved tokens, and the vision checkpoints use id 128256, one past
# the vocabulary, for `<|image|>`. We follow llama-models, which tokenizes it as 128011 and rewrites it to 128256 only
# when it feeds a vision model.
NAMED_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)

# tiktoken's regex engine overflows on long text and is slow on long runs, so Meta's tokenizer cuts text into slices,
# and runs of whitespace or of anything else into stretches, of at most so many characters. Tokens never span a cut.
MAX_SLICE_CHARS = 400_000
MAX_RUN_CHARS = 25_000
_WORDS_AT_ONCE = 1 << 14
_RUN = re.compile(r"\s+|\S+")  # Python's \s is exactly str.isspace, which Meta's code asks


class Tokenizer:
    """Text to token ids and back. Made by `Tokenizer.load` or `tokenizer_training`; immutable, and it pickles."""

    def __init__(self, ranks: dict[bytes, int]):
        """`ranks` maps each learned token to its id; ValueError if ids have gaps or a single byte is missing."""
        _check_ranks(ranks)
        self.num_bpe_tokens = len(ranks)
        self.vocab_size = len(ranks) + NUM_SPECIAL
        self.special_tokens = special_token_ids(len(ranks))
        self.bos_id = self.special_tokens["<|begin_of_text|>"]
        self.eos_id = self.special_tokens["<|end_of_text|>"]
        self.pad_id = self.special_tokens["<|finetune_right_pad_id|>"]
        self.eom_id = self.special_tokens["<|eom_id|>"]
        self.eot_id = self.special_tokens["<|eot_id|>"]
        self.stop_ids = (self.eos_id, self.eom_id, self.eot_id)
        self._ranks = ranks
        self._encoding = tiktoken.Encoding(
            "llama3", pat_str=SPLIT_REGEX, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads Meta's `tokenizer.model`, Hugging Face's `tokenizer.json`, or a folder with either (Meta's first).

        Raises FileNotFoundError, or ValueError naming the file and what is wrong with it.
        """
        path = find_tokenizer(Path(path))
        data = path.read_bytes()
        try:
            return cls(_parse_hugging_face(data) if path.suffix == ".json" else _parse_meta(data))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes Meta's `tokenizer.model` format, one `base64 id` line per learned token; whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in _by_rank(self._ranks))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(b"".join(lines))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def learned_tokens(self) -> list[bytes]:
        """The learned tokens in id order; the special ones follow."""
        return [token for token, _ in _by_rank(self._ranks)]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that decides the ids: split regex, learned tokens, special tokens."""
        digest = hashlib.sha256(json.dumps([SPLIT_REGEX, self.special_tokens]).encode())
        digest.update(b"".join(b"%d:%s" % (len(token), token) for token, _ in _by_rank(self._ranks)))
        return digest.hexdigest()

    def encode(self, text: str, *, bos: bool = False, eos: bool = False, allow_special: bool = False) -> list[int]:
        """Token ids of `text`, optionally between `<|begin_of_text|>` and `<|end_of_text|>`.

        Special-token strings inside `text` are plain text, so that a document cannot forge a turn, unless
        `allow_special`. Surrogate pairs are joined and lone surrogates become U+FFFD, as in Meta's tokenizer.
        """
        return self.encode_array(text, bos=bos, eos=eos, allow_special=allow_special).tolist()

    def encode_array(
        self, text: str, *, bos: bool = False, eos: bool = False, allow_special: bool = False
    ) -> np.ndarray:
        """As `encode`, as int32 [num_tokens]; no Python list is built, so threads run side by side."""
        parts = [self._encode_piece(piece, allow_special) for piece in cut_text(text)]
        if bos:
            parts.insert(0, np.array([self.bos_id]))
        if eos:
            parts.append(np.array([self.eos_id]))
        return np.concatenate(parts, dtype=np.int32, casting="unsafe")

    def encode_batch(
        self, texts: Sequence[str], *, bos: bool = False, eos: bool = False, num_threads: int | None = None
    ) -> list[np.ndarray]:
        """int32 ids of each text, in order, special strings as plain text; on `num_threads` threads (all cores)."""
        num_threads = num_threads or os.cpu_count() or 1
        size = max(1, len(texts) // (8 * num_threads))  # a task per text would cost more than encoding a short one
        chunks = [texts[start : start + size] for start in range(0, len(texts), size)]
        with ThreadPoolExecutor(num_threads) as pool:
            encoded = pool.map(lambda chunk: [self.encode_array(text, bos=bos, eos=eos) for text in chunk], chunks)
            return list(itertools.chain.from_iterable(encoded))

    def encode_words(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """int32 ids of all `words`, in a row, and how many each has `[num_words]`. Words are what the split makes."""
        border = "<|end_of_text|>"  # no word holds it: the split parts letters from signs
        ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for start in range(0, len(words), _WORDS_AT_ONCE):
            joined = border.join(words[start : start + _WORDS_AT_ONCE]) + border
            encoded = self._encoding.encode_to_numpy(joined, allowed_special={border}, disallowed_special=())
            borders = np.flatnonzero(encoded == self.eos_id)
            lengths.append(np.diff(borders, prepend=-1) - 1)
            ids.append(np.delete(encoded, borders).astype(np.int32))
        return np.concatenate(ids), np.concatenate(lengths)

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD. ValueError on an id outside the vocabulary."""
        ids = self._checked(ids)
        if skip_special:
            ids = ids[ids < self.num_bpe_tokens]
        return self._encoding.decode_bytes(ids.tolist()).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The exact bytes of `ids`, special tokens by name. ValueError on an id outside the vocabulary."""
        return self._encoding.decode_bytes(self._checked(ids).tolist())

    def token_bytes(self) -> np.ndarray:
        """Number of UTF-8 bytes of every token, int32 `[vocab_size]`; 0 for special tokens. For bits per byte."""
        lengths = np.zeros(self.vocab_size, np.int32)
        for token, rank in self._ranks.items():
            lengths[rank] = len(token)
        return lengths

    def _encode_piece(self, piece: str, allow_special: bool) -> np.ndarray:
        allowed = "all" if allow_special else frozenset()
        try:
            return self._encoding.encode_to_numpy(piece, allowed_special=allowed, disallowed_special=())
        except UnicodeEncodeError:
            piece = replace_surrogates(piece)
            return self._encoding.encode_to_numpy(piece, allowed_special=allowed, disallowed_special=())

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.size == 0:
            return np.zeros(0, np.int64)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"token ids must be a flat list of integers, got shape {ids.shape} of {ids.dtype}")
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise ValueError(f"token id {outside[0]} is outside the vocabulary of {self.vocab_size}")
        return ids


def special_token_ids(num_bpe: int) -> dict[str, int]:
    """The 256 special tokens, by name, that follow `num_bpe` learned ones."""
    reserved = (f"<|reserved_special_token_{number}|>" for number in itertools.count(2))
    names = itertools.islice(itertools.chain(NAMED_SPECIAL, reserved), NUM_SPECIAL)
    return {name: num_bpe + index for index, name in enumerate(names)}


def cut_text(text: str) -> Iterator[str]:
    """Cuts `text` exactly where Meta's tokenizer does; almost every text comes back whole."""
    for start in range(0, len(text), MAX_SLICE_CHARS) or [0]:
        piece = text[start : start + MAX_SLICE_CHARS]
        cuts = _run_cuts(piece) if _may_have_long_run(piece) else []
        for begin, end in itertools.pairwise([0, *cuts, len(piece)]):
            yield piece[begin:end]


def replace_surrogates(text: str) -> str:
    """Joins surrogate pairs and replaces lone surrogates by U+FFFD, so that the text has UTF-8 bytes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _may_have_long_run(text: str) -> bool:
    """A run longer than the limit covers a whole aligned window of half the limit: few places to look at."""
    half = MAX_RUN_CHARS // 2
    runs = (_RUN.match(text, start) for start in range(0, len(text) - half + 1, half))
    return any(run is not None and run.end() - run.start() >= half for run in runs)


def _run_cuts(text: str) -> list[int]:
    """Offsets that cut every run of whitespace, or of non-whitespace, into stretches of at most MAX_RUN_CHARS."""
    return [cut for run in _RUN.finditer(text) for cut in range(run.start() + MAX_RUN_CHARS, run.end(), MAX_RUN_CHARS)]


def _by_rank(ranks: dict[bytes, int]) -> list[tuple[bytes, int]]:
    return sorted(ranks.items(), key=lambda item: item[1])


def _check_ranks(ranks: dict[bytes, int]) -> None:
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"not a byte-level vocabulary: {len(missing)} of the 256 single bytes are no tokens")
    for expected, (token, rank) in enumerate(_by_rank(ranks)):
        if rank != expected:
            raise ValueError(f"token ids must run from 0 without gaps: token {token!r} has {rank}, expected {expected}")


def find_tokenizer(path: Path) -> Path:
    """The tokenizer's file: `path` itself, or the one in that folder (Meta's first). Raises FileNotFoundError."""
    if path.is_dir():
        for name in ("tokenizer.model", "tokenizer.json"):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path}: the folder holds neither tokenizer.model nor tokenizer.json")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tokenizer file")
    return path


def _parse_meta(data: bytes) -> dict[bytes, int]:
    """Learned tokens of a `tokenizer.model`; ValueError naming the first line that is wrong."""
    ranks = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank)
        except ValueError as error:
            raise ValueError(f"not a Llama 3 tokenizer.model: line {number} is not '<base64 token> <id>'") from error
        if token in ranks:
            raise ValueError(f"line {number} repeats the token {token!r}")
        ranks[token] = rank
    return ranks


def _parse_hugging_face(data: bytes) -> dict[bytes, int]:
    """Learned tokens of a `tokenizer.json`, once it is sure to give the ids that tiktoken gives; else ValueError."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    try:
        return _ranks_of_pipeline(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a byte-level BPE tokenizer.json ({type(error).__name__}: {error})") from error


def _ranks_of_pipeline(content: dict) -> dict[bytes, int]:
    model = content["model"]
    _check_pipeline(model, content["pre_tokenizer"], content.get("normalizer"))
    added = {entry["content"]: entry["id"] for entry in content.get("added_tokens") or []}
    vocab = {token: rank for token, rank in model["vocab"].items() if token not in added}
    ranks = {_token_bytes(token): rank for token, rank in vocab.items()}
    _check_ranks(ranks)
    _check_added(added, len(ranks))
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    _check_merges(vocab, merges, bool(model.get("ignore_merges")))
    return ranks


def _check_pipeline(model: dict, pre_tokenizer: dict, normalizer: dict | None) -> None:
    """The text must reach the merges as it does here: unnormalised, split by the Llama 3 regex, as bytes."""
    if normalizer is not None:
        raise ValueError("it normalises text before splitting it, which Llama 3's tokenizer does not")
    changed = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if model.get("type", "BPE") != "BPE" or changed:
        raise ValueError(f"its model is not plain BPE (type {model.get('type')!r}, set: {changed})")
    steps = pre_tokenizer.get("pretokenizers", []) if pre_tokenizer else []
    if [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        raise ValueError("its pre-tokenizer is not Llama 3's Split, then ByteLevel")
    split, byte_level = steps
    if split.get("pattern") != {"Regex": SPLIT_REGEX} or split.get("behavior") != "Isolated" or split.get("invert"):
        raise ValueError("its split regex is not the Llama 3 one")
    if byte_level.get("add_prefix_space") or byte_level.get("use_regex"):
        raise ValueError("its ByteLevel step adds a space or splits again, which Llama 3's does not")


def _check_added(added: dict[str, int], num_bpe: int) -> None:
    """Well-known names must have their ids; reserved ones are numbered differently from file to file."""
    ids = special_token_ids(num_bpe)
    for name, given in added.items():
        if name.startswith("<|reserved_special_token_") and num_bpe <= given < num_bpe + NUM_SPECIAL:
            continue
        if name == "<|image|>" and given == num_bpe + NUM_SPECIAL:  # the vision files; see NAMED_SPECIAL
            continue
        if name not in ids:
            raise ValueError(f"it adds the token {name!r} (id {given}), which is none of Llama 3's special tokens")
        if ids[name] != given:
            raise ValueError(f"it gives {name} the id {given}, where Llama 3's special tokens have {ids[name]}")


def _check_merges(vocab: dict[str, int], merges: list[tuple[str, ...]], ignore_merges: bool) -> None:
    """Proves that merging by listed pairs equals tiktoken's merging of any two neighbours that join into a token.

    It does if priorities agree and either every such pair is listed and whole tokens are looked up first
    (`ignore_merges`, as in Llama 3's files), or every token is what the listed merges make of its own bytes: then no
    unlisted pair can ever become neighbours, since the merges inside a token do not depend on what surrounds it.
    """
    previous = 0
    for index, pair in enumerate(merges):
        if len(pair) != 2 or pair[0] not in vocab or pair[1] not in vocab or pair[0] + pair[1] not in vocab:
            raise ValueError(f"merge {index} {pair} does not join two tokens of the vocabulary into a third")
        rank = vocab[pair[0] + pair[1]]
        if rank < previous:
            raise ValueError(f"merges and token ids disagree: merge {index} {pair} makes token {rank} after {previous}")
        previous = rank
    num_pairs = sum(token[:cut] in vocab and token[cut:] in vocab for token in vocab for cut in range(1, len(token)))
    if ignore_merges and len(set(merges)) == num_pairs:
        return
    model = tokenizers.models.BPE(vocab=vocab, merges=merges)
    wrong = [token for token, rank in vocab.items() if [part.id for part in model.tokenize(token)] != [rank]]
    if wrong:
        raise ValueError(f"merges and token ids disagree: {len(wrong)} tokens, such as {wrong[0]!r}, cannot be merged")


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """GPT-2's table, inverted: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def single_bytes() -> list[bytes]:
    """The 256 bytes in the order of their ids in a new vocabulary: that of the characters they are written in."""
    return [bytes([byte]) for byte in _byte_of_char().values()]


def byte_level(token: bytes) -> str:
    """A token's bytes as the printable characters that `tokenizer.json` writes them in."""
    table = {byte: char for char, byte in _byte_of_char().items()}
    return "".join(table[byte] for byte in token)


def _token_bytes(token: str) -> bytes:
    table = _byte_of_char()
    try:
        return bytes(table[char] for char in token)
    except KeyError as error:
        raise ValueError(f"token {token!r} is not in byte-level characters") from error

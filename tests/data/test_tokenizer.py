"""The tokenizer against Meta's, against Hugging Face's, on hostile text and on hostile files."""

import base64
import json
import os
import pickle
import time
from pathlib import Path

import llama_models.llama3.tokenizer as meta
import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from llama3_jax.data import tokenizer as subject
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_training import train_tokenizer

META_FOLDER = Path(meta.__file__).parent
STDLIB = Path(os.__file__).parent
ANY_TEXT = st.text(st.characters())  # surrogates included
PIECES = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.text("aZ '’sS.,1٣५𝟘ſ\n\r\t\u00a0\u3000\u200b\u0301漢é😀", max_size=20),
        st.sampled_from(["'s", "'LL", "'ſ", "  ", "\r\n", " \n ", "12345", "<|eot_id|>", "<|begin_of_text|>"]),
    )
).map("".join)
HYPOTHESIS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.load(META_FOLDER / "tokenizer.model")


@pytest.fixture(scope="module")
def theirs() -> meta.Tokenizer:
    return meta.Tokenizer.get_instance()


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Every module at the top of the standard library: about 170 files, 4 MB."""
    return [path.read_text(encoding="utf-8") for path in sorted(STDLIB.glob("*.py"))]


@pytest.fixture(scope="module")
def lines(files) -> list[str]:
    return sorted({line for text in files for line in text.splitlines(keepends=True)})[::10]


@pytest.fixture(scope="module")
def hugging_face_file(tmp_path_factory) -> Path:
    """Meta's tokenizer as Hugging Face's own converter writes it."""
    converter = TikTokenConverter(
        vocab_file=str(META_FOLDER / "tokenizer.model"),
        pattern=meta.Tokenizer.pat_str,
        extra_special_tokens=list(meta.Tokenizer.get_instance().special_tokens),
    )
    path = tmp_path_factory.mktemp("hugging_face") / "tokenizer.json"
    converter.converted().save(str(path))
    return path


@pytest.fixture(scope="module")
def hugging_face(hugging_face_file) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(hugging_face_file), split_special_tokens=True)


def train_with_tokenizers(texts: list[str], num_bpe: int) -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(meta.Tokenizer.pat_str), "isolated")
    to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_bytes])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=num_bpe, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(texts, trainer)
    return model


@pytest.fixture(scope="module")
def small_model(files) -> tokenizers.Tokenizer:
    return train_with_tokenizers(files[:40], 2000)


@pytest.fixture
def small_json(small_model) -> dict:
    return json.loads(small_model.to_str())


def write_json(folder: Path, content: dict) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# Against Meta's


def test_special_tokens_are_metas(ours, theirs):
    assert ours.special_tokens == theirs.special_tokens
    assert list(ours.special_tokens.values()) == list(range(128_000, 128_256))
    assert theirs.pat_str == subject.SPLIT_REGEX
    assert (ours.num_bpe_tokens, ours.vocab_size) == (128_000, theirs.n_words)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_id, theirs.eos_id, theirs.pad_id)
    assert (ours.eom_id, ours.eot_id) == (theirs.eom_id, theirs.eot_id)
    assert list(ours.stop_ids) == theirs.stop_tokens == [128_001, 128_008, 128_009]


def test_stdlib_tokens_are_metas(ours, theirs, files, lines):
    assert len(lines) > 5000
    for text in [*lines, *files[::8]]:
        assert ours.encode(text) == theirs.encode(text, bos=False, eos=False)


@HYPOTHESIS
@given(text=st.one_of(ANY_TEXT, PIECES), bos=st.booleans(), eos=st.booleans(), allow_special=st.booleans())
def test_any_text_gives_metas_tokens(ours, theirs, text, bos, eos, allow_special):
    allowed = "all" if allow_special else None
    expected = theirs.encode(text, bos=bos, eos=eos, allowed_special=allowed)
    assert ours.encode(text, bos=bos, eos=eos, allow_special=allow_special) == expected


def test_ten_thousand_random_strings_give_metas_tokens(ours, theirs):
    """Up to 64 code points each, of every plane or of a few blocks side by side, with white space and special names."""
    rng = np.random.default_rng(3)
    blocks = [(0, 0x80), (0, 0x250), (0x370, 0x600), (0x900, 0xE00), (0x2000, 0x2100), (0x4E00, 0xA000), (0, 0x110000)]
    common = [*" \n\t\r'", "'s", "\r\n", "  ", "<|eot_id|>", "é", "\u0301", "\u200d", "😀"]
    texts = []
    for _ in range(10_000):
        chosen = [blocks[index] for index in rng.integers(len(blocks), size=rng.integers(1, 4))]
        codes = [int(rng.integers(*chosen[index % len(chosen)])) for index in range(rng.integers(64))]
        letters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
        extra = [common[index] for index in rng.integers(len(common), size=rng.integers(12))]
        texts.append("".join(rng.permutation(np.array(letters + extra, object))))
    assert len(set(texts)) > 9_900 and sum(map(len, texts)) > 300_000
    assert [ours.encode(text) for text in texts] == [theirs.encode(text, bos=False, eos=False) for text in texts]
    assert all(ours.decode(ids) == text for ids, text in zip(map(ours.encode, texts), texts, strict=True))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("ab \n\u2003é", max_size=200), max_slice=st.integers(1, 60), max_run=st.integers(2, 9))
def test_text_is_cut_where_meta_cuts(text, max_slice, max_run):
    expected = [
        piece
        for start in range(0, len(text) or 1, max_slice)
        for piece in meta.Tokenizer._split_whitespaces_or_nonwhitespaces(text[start : start + max_slice], max_run)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "MAX_SLICE_CHARS", max_slice)
        patch.setattr(subject, "MAX_RUN_CHARS", max_run)
        assert list(subject.cut_text(text)) == expected


def test_cut_limits_are_metas():
    assert subject.MAX_SLICE_CHARS == meta.TIKTOKEN_MAX_ENCODE_CHARS
    assert subject.MAX_RUN_CHARS == meta.MAX_NO_WHITESPACES_CHARS


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        " " * 1_000_000,
        "\n" * 1_000_000,
        "=" * 1_000_000,
        "123" * 333_333,
        "漢😀" * 200_000,
        ("x" * 12_499 + " ") * 60 + "y" * 25_001 + " " * 25_000 + "z" * 50_001,
        (" " * 24_999 + "x") * 16,
        "a" * 399_999 + "\ud83d\ude00" + "b" * 10,  # a surrogate pair across a cut
    ],
    ids=lambda text: repr(text[:2]),
)
def test_long_runs_give_metas_tokens_in_time(ours, theirs, text):
    started = time.monotonic()
    ids = ours.encode(text)
    assert time.monotonic() - started < 20
    assert ids == theirs.encode(text, bos=False, eos=False)


def test_special_strings_in_text_are_plain_text(ours):
    for name in ours.special_tokens:
        assert max(ours.encode(f"a {name} b")) < ours.num_bpe_tokens
        assert max(ours.encode_batch([name])[0]) < ours.num_bpe_tokens
        assert ours.encode(name, allow_special=True) == [ours.special_tokens[name]]


def test_lone_surrogates_become_replacement_characters(ours):
    assert ours.encode("x\ud800y") == ours.encode("x\ufffdy")
    assert ours.encode("\ud83d\ude00") == ours.encode("😀")


# Against Hugging Face's


def test_tokenizer_json_is_the_same_tokenizer(ours, hugging_face_file):
    loaded = Tokenizer.load(hugging_face_file.parent)
    assert loaded.fingerprint == ours.fingerprint
    assert loaded.special_tokens == ours.special_tokens


def test_stdlib_tokens_are_hugging_faces(ours, hugging_face, lines):
    expected = hugging_face(lines, add_special_tokens=False)["input_ids"]
    assert [ids.tolist() for ids in ours.encode_batch(lines)] == expected


@HYPOTHESIS
@given(text=st.one_of(st.text(), PIECES))
def test_any_text_gives_hugging_faces_tokens(ours, hugging_face, text):
    assert ours.encode(text) == hugging_face(text, add_special_tokens=False)["input_ids"]


def test_learned_merges_load_and_agree_with_tokenizers(small_model, small_json, tmp_path, lines):
    """A file with only the merges that were learned, some 1,700, and not every pair that joins."""
    small_json["model"]["merges"] = [" ".join(pair) for pair in small_json["model"]["merges"]]  # the older spelling
    loaded = Tokenizer.load(write_json(tmp_path, small_json))
    assert loaded.vocab_size == 2256
    expected = [encoding.ids for encoding in small_model.encode_batch(lines)]
    assert [ids.tolist() for ids in loaded.encode_batch(lines)] == expected


@HYPOTHESIS
@given(text=st.one_of(PIECES, st.text("etaoin srh_.()\n", max_size=300)))
def test_trained_tokenizer_agrees_with_tokenizers(small_model, trained, text):
    assert trained.encode(text) == small_model.encode(text).ids


# Round trip


def test_round_trip_and_compression_on_the_standard_library(ours, files):
    encoded = ours.encode_batch(files, bos=True, eos=True)
    for text, ids in zip(files, encoded, strict=True):
        assert ids[0] == ours.bos_id and ids[-1] == ours.eos_id and ids.dtype == np.int32
        assert ours.decode(ids, skip_special=True) == text
    chars_per_token = sum(map(len, files)) / sum(ids.size - 2 for ids in encoded)
    assert 4.0 < chars_per_token < 4.6  # the paper's 3.94 is for English prose


@HYPOTHESIS
@given(text=st.one_of(st.text(), PIECES), allow_special=st.booleans())
def test_every_text_comes_back(ours, text, allow_special):
    ids = ours.encode(text, bos=True, allow_special=allow_special)
    assert ours.decode(ids) == "<|begin_of_text|>" + text
    assert ours.decode_bytes(np.array(ids[1:])) == text.encode()


def test_batches_equal_single_texts(ours, lines):
    texts = ["", *lines[:200], "\ud800", "<|eot_id|>"]
    expected = [ours.encode(text, bos=True, eos=True) for text in texts]
    for num_threads in (None, 1, 3):
        encoded = ours.encode_batch(texts, bos=True, eos=True, num_threads=num_threads)
        assert [ids.tolist() for ids in encoded] == expected
    assert ours.encode_batch([]) == []


def test_decoding_half_a_character(ours):
    ids = [token for token in ours.encode("🦙") if token < ours.num_bpe_tokens]
    assert len(ids) > 1
    assert ours.decode_bytes(ids[:1]) == "🦙".encode()[: len(ours.decode_bytes(ids[:1]))]
    assert ours.decode(ids[:1]).strip("\ufffd") == ""
    assert ours.decode([]) == "" and ours.decode_bytes([]) == b""


def test_skipping_special_tokens(ours):
    ids = ours.encode("<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", bos=True, allow_special=True)
    assert ours.decode(ids, skip_special=True) == "user\n\nhi"
    assert ours.decode(ids).startswith("<|begin_of_text|><|start_header_id|>user")


@pytest.mark.parametrize("ids", [[128_256], [5, -1], np.array([2**40])])
def test_ids_outside_the_vocabulary_are_refused(ours, ids):
    with pytest.raises(ValueError, match=f"token id {ids[-1]} is outside the vocabulary of 128256"):
        ours.decode(ids)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        ours.decode_bytes(ids)


@pytest.mark.parametrize("ids", [[0.5], [[1, 2]], ["1"], 7])
def test_ids_that_are_no_ids_are_refused(ours, ids):
    with pytest.raises(ValueError, match="flat list of integers"):
        ours.decode(ids)


def test_pickled_copy_is_the_same(trained):
    copy = pickle.loads(pickle.dumps(trained))
    assert copy.fingerprint == trained.fingerprint
    assert copy.encode("def f(x):") == trained.encode("def f(x):")


# Training and saving


@pytest.fixture(scope="module")
def trained(files) -> Tokenizer:
    return train_tokenizer(files[:40], vocab_size=2256)


def test_training_reaches_the_size_and_is_deterministic(trained, files):
    assert (trained.vocab_size, trained.num_bpe_tokens, trained.bos_id) == (2256, 2000, 2000)
    assert trained.stop_ids == (2001, 2008, 2009)
    assert train_tokenizer(iter(files[:40]), vocab_size=2256).fingerprint == trained.fingerprint
    assert train_tokenizer(files[40:80], vocab_size=2256).fingerprint != trained.fingerprint


def test_trained_tokenizer_compresses_text_it_has_not_seen(trained, files):
    unseen = files[40:80]
    encoded = trained.encode_batch(unseen)
    assert [trained.decode(ids) for ids in encoded] == unseen
    assert sum(map(len, unseen)) / sum(map(len, encoded)) > 2.5


def test_training_survives_hostile_text():
    texts = ["", "\ud800 lone", "x" * 60_000, " " * 60_000, *["the same words again"] * 3]
    tokenizer = train_tokenizer(texts, vocab_size=520)
    assert tokenizer.decode(tokenizer.encode("the same")) == "the same"


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        ([], 4096, "is empty"),
        (["", ""], 4096, "is empty"),
        (["abcab"], 4096, "gives 513 tokens of the 4096"),
        (["abc"], 511, "at least 512"),
        ("one string", 4096, "not one string"),
    ],
)
def test_training_on_too_little_is_refused(texts, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(texts, vocab_size=vocab_size)


def test_smallest_vocabulary_is_bytes():
    tokenizer = train_tokenizer(["anything"], vocab_size=512)
    assert tokenizer.decode_bytes(tokenizer.encode("né\0")) == "né\0".encode()
    assert len(tokenizer.encode("né\0")) == 4


def test_saved_file_loads_in_ours_and_in_metas(trained, tmp_path):
    trained.save(tmp_path / "new" / "tokenizer.model")
    loaded = Tokenizer.load(tmp_path / "new")
    assert loaded.fingerprint == trained.fingerprint
    text = "import os  # <|eot_id|>\n"
    assert meta.Tokenizer(tmp_path / "new" / "tokenizer.model").encode(text, bos=True, eos=True) == loaded.encode(
        text, bos=True, eos=True
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.model"]


def test_saving_metas_tokenizer_gives_metas_file(ours, tmp_path):
    ours.save(tmp_path / "tokenizer.model")
    assert (tmp_path / "tokenizer.model").read_bytes() == (META_FOLDER / "tokenizer.model").read_bytes()


def test_failed_save_leaves_the_old_file(trained, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"old")

    def fail(self, data):
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        trained.save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# Hostile files


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.model: no such tokenizer file"):
        Tokenizer.load(tmp_path / "nowhere.model")
    with pytest.raises(FileNotFoundError, match="neither tokenizer.model nor tokenizer.json"):
        Tokenizer.load(tmp_path)


def byte_lines() -> list[bytes]:
    return [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]


def test_a_folder_prefers_metas_file(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(byte_lines()))
    (tmp_path / "tokenizer.json").write_text("not even JSON")
    assert Tokenizer.load(tmp_path).vocab_size == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "256 of the 256 single bytes"),
        (lambda lines: lines[:100], "156 of the 256 single bytes"),
        (lambda lines: [b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00", *lines], "line 2 is not '<base64 token> <id>'"),
        (lambda lines: [*lines[:99], b"A=B 99", *lines[100:]], "line 100 is not '<base64 token> <id>'"),
        (lambda lines: [*lines, b"YWI"], "line 257 is not"),
        (lambda lines: [*lines, b"YW I="], "line 257 is not"),
        (lambda lines: [*lines, b"YWI="], "line 257 is not"),
        (lambda lines: [*lines, b"YWI= x"], "line 257 is not"),
        (lambda lines: [*lines, b"IQ== 256"], "line 257 repeats the token b'!'"),
        (lambda lines: [*lines, b"YWI= 25"], "token ids must run from 0"),
        (lambda lines: [*lines, b"YWI= 257"], "token b'ab' has 257, expected 256"),
    ],
)
def test_damaged_model_files_are_refused_by_line(tmp_path, change, message):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\n".join(change(byte_lines())))
    with pytest.raises(ValueError, match=f"tokenizer.model: .*{message}"):
        Tokenizer.load(path)


def swap_merges(content: dict) -> None:
    merges = content["model"]["merges"]
    merges[10], merges[500] = merges[500], merges[10]


def reverse_ids(content: dict) -> None:
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {token: len(vocab) - 1 - rank for token, rank in vocab.items()}


def replace_merge(content: dict) -> None:
    """Drops the way to a token: the last one can no longer be made."""
    content["model"]["merges"].pop()


def add_token(name: str, index: int):
    return lambda content: content.update(added_tokens=[{"content": name, "id": index}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_merges, "merges and token ids disagree: merge 11 "),
        (reverse_ids, "merges and token ids disagree"),
        (replace_merge, "1 tokens, such as .*, cannot be merged"),
        (lambda content: content["model"].update(ignore_merges=True, merges=[]), "1744 tokens, such as"),
        (lambda content: content["model"]["merges"].append(["Q", "Q"]), "does not join two tokens"),
        (lambda content: content["model"]["vocab"].pop("!"), "1 of the 256 single bytes"),
        (lambda content: content["model"]["vocab"].update({"▁the": 2000}), "not in byte-level characters"),
        (lambda content: content["model"]["vocab"].update({"zqzq": 2001}), "expected 2000"),
        (lambda content: content["model"].update(type="Unigram"), "not plain BPE"),
        (lambda content: content["model"].update(dropout=0.1), "dropout"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "normalises"),
        (lambda content: content.update(pre_tokenizer={"type": "ByteLevel"}), "pre-tokenizer is not Llama 3's"),
        (lambda content: content.update(pre_tokenizer=None), "pre-tokenizer is not Llama 3's"),
        (
            lambda content: content["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+|\W+"),
            "split regex is not the Llama 3 one",
        ),
        (lambda content: content["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "adds a space"),
        (add_token("<|eot_id|>", 2008), "gives <|eot_id|> the id 2008, where .* 2009"),
        (add_token("<tool>", 2020), "adds the token '<tool>'"),
        (add_token("<|reserved_special_token_250|>", 2256), "none of Llama 3's special tokens"),
        (lambda content: content.pop("model"), "not a byte-level BPE tokenizer.json"),
        (lambda content: content.update(model=[1]), "not a byte-level BPE tokenizer.json"),
    ],
)
def test_tokenizer_json_that_would_give_other_ids_is_refused(small_json, tmp_path, change, message):
    change(small_json)
    path = write_json(tmp_path, small_json)
    with pytest.raises(ValueError, match=f"tokenizer.json: .*{message.replace('|', '[|]')}"):
        Tokenizer.load(path)


def test_json_cut_short_is_refused(small_json, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(small_json)[:-100], encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer.json: not JSON"):
        Tokenizer.load(path)


def test_names_that_releases_disagree_on_are_accepted(small_json, tmp_path):
    """As in Hugging Face's 3.2 vision file: a reserved token where we say <|step_id|>, and <|image|> past the end."""
    names = {"<|eot_id|>": 2009, "<|reserved_special_token_2|>": 2005, "<|image|>": 2256}
    small_json["added_tokens"] = [{"content": name, "id": index} for name, index in names.items()]
    loaded = Tokenizer.load(write_json(tmp_path, small_json))
    assert (loaded.special_tokens["<|image|>"], loaded.vocab_size) == (2011, 2256)


def test_fingerprint_follows_ranks(ours, trained):
    assert len(ours.fingerprint) == 64
    assert ours.fingerprint != trained.fingerprint
    ranks = {bytes([byte]): byte for byte in range(256)}
    swapped = ranks | {b"a": ranks[b"b"], b"b": ranks[b"a"]}
    assert Tokenizer(ranks).fingerprint != Tokenizer(swapped).fingerprint

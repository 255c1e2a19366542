"""A tokenizer that was extended keeps what it had, encodes as its merges say, and compresses more languages."""

import base64
import itertools
from pathlib import Path

import llama_models.llama3.tokenizer as meta
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data.compression import compare_tokenizers
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_json import write_tokenizer_json
from llama3_jax.data.tokenizer_training import (
    bytes_only,
    check_reached,
    check_size,
    first_tokens,
    grow_tokenizer,
    train_tokenizer,
)
from llama3_jax.data.word_counts import CountConfig, count_corpus
from llama3_jax.data.words import split_words
from tests.data import multilingual

NAMES = list(multilingual.SCRIPTS)
NUM_NEW = 3000


@pytest.fixture(scope="module")
def documents():
    made = [document for name in NAMES for document in multilingual.made_of_script(name, 60, seed=1)]
    return made + multilingual.english()


@pytest.fixture(scope="module")
def held_out():
    return [document for name in NAMES for document in multilingual.made_of_script(name, 20, seed=2)]


@pytest.fixture(scope="module")
def table(documents):
    return count_corpus(documents, CountConfig())


@pytest.fixture(scope="module")
def cl100k() -> Tokenizer:
    """The first 100,000 tokens of Meta's file, which are those of tiktoken's cl100k."""
    return first_tokens(Tokenizer.load(Path(meta.__file__).parent / "tokenizer.model"), 100_000)


@pytest.fixture(scope="module")
def small(documents) -> Tokenizer:
    """2,000 tokens that know English only."""
    return train_tokenizer([text for name, text in documents if name == "en"], vocab_size=2256)


@pytest.fixture(scope="module")
def extended(small, table):
    return grow_tokenizer(small, table, vocab_size=small.vocab_size + NUM_NEW)


@pytest.fixture(scope="module")
def extended_cl100k(cl100k, table):
    return grow_tokenizer(cl100k, table, vocab_size=cl100k.vocab_size + NUM_NEW)


def encode_by_merges(text: str, start: Tokenizer, growth) -> list[int]:
    """The frozen tokenizer's ids, and on them the learned merges, one after the other."""
    encoded = []
    order = {pair: rank for rank, pair in enumerate(growth.learned.merges)}
    for word in split_words(text):
        ids = start.encode(word)
        while True:
            merges = [order[pair] for pair in itertools.pairwise(ids) if pair in order]
            if not merges:
                break
            rank = min(merges)
            place = next(place for place, pair in enumerate(itertools.pairwise(ids)) if order.get(pair) == rank)
            ids[place : place + 2] = [growth.num_frozen + rank]
        encoded += ids
    return encoded


SCRIPT_LETTERS = "".join(
    chr(code) for ranges in multilingual.SCRIPTS.values() for pair in ranges for code in range(*pair)
)
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=12),
        st.text(SCRIPT_LETTERS, max_size=40),
        st.text("etaoin shrdlu_.()\n", max_size=40),
        st.sampled_from([text[:300] for _, text in multilingual.made_of_script("th", 5, seed=3)]),
        st.sampled_from([text[:300] for _, text in multilingual.made_of_script("hi", 5, seed=3)]),
    ),
    max_size=5,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_ranks_encode_as_the_merges_do(small, extended, text):
    assert extended.tokenizer.encode(text) == encode_by_merges(text, small, extended)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_ranks_encode_as_the_merges_do_after_cl100k(cl100k, extended_cl100k, text):
    assert extended_cl100k.tokenizer.encode(text) == encode_by_merges(text, cl100k, extended_cl100k)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_trained_ranks_encode_as_the_merges_do(trained, text):
    assert trained.tokenizer.encode(text) == encode_by_merges(text, bytes_only(), trained)


@pytest.fixture(scope="module")
def trained(table):
    return grow_tokenizer(bytes_only(), table, vocab_size=512 + NUM_NEW)


def test_real_text_is_encoded_as_the_merges_do(small, extended, documents):
    """The words that were learned from, where the counts must have been those of the encoder."""
    some = documents[::17]
    assert len(some) > 10
    for _, text in some:
        assert extended.tokenizer.encode(text) == encode_by_merges(text, small, extended)


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(TEXTS, st.text(st.characters())))
def test_what_needs_no_new_token_is_encoded_as_before(small, extended, text):
    before, after = small.encode(text), extended.tokenizer.encode(text)
    assert len(after) <= len(before)
    if max(after, default=0) < extended.num_frozen:
        assert after == before
    assert extended.tokenizer.decode_bytes(after) == small.decode_bytes(before)


def test_every_token_that_was_there_keeps_its_id(cl100k, extended_cl100k):
    tokenizer = extended_cl100k.tokenizer
    assert extended_cl100k.num_frozen == 100_000
    assert tokenizer.learned_tokens[:100_000] == cl100k.learned_tokens
    assert tokenizer.learned_tokens[100_000:] == extended_cl100k.learned.tokens
    assert len(set(tokenizer.learned_tokens)) == tokenizer.num_bpe_tokens == 100_000 + NUM_NEW
    assert tokenizer.bos_id == 100_000 + NUM_NEW and tokenizer.vocab_size == 100_256 + NUM_NEW
    assert extended_cl100k.learned.refused == 0


def test_extension_compresses_the_new_languages_and_leaves_english(cl100k, extended_cl100k, held_out):
    comparison = compare_tokenizers(held_out + multilingual.english(), cl100k, extended_cl100k.tokenizer)
    change = {row.source: row.change_percent for row in comparison.sources}
    assert all(change[name] > 100 for name in NAMES), change
    assert 0 <= change["en"] < 5
    assert comparison.total.old.broken == comparison.total.new.broken == 0


@pytest.mark.parametrize("language", ["ru", "hi", "ja"])
def test_extension_compresses_real_messages(cl100k, language):
    messages = list(multilingual.translated(language, 400_000))
    if len(messages) < 2000:
        pytest.skip("no catalogues of messages here")
    held_out = messages[::10]
    learned_from = [message for index, message in enumerate(messages) if index % 10]
    grown = grow_tokenizer(cl100k, count_corpus(learned_from, CountConfig()), vocab_size=cl100k.vocab_size + 2000)
    row = compare_tokenizers(held_out, cl100k, grown.tokenizer).total
    assert row.change_percent > 30
    assert row.new.broken == 0


def test_an_unreachable_frozen_token_is_left_alone(table):
    """On Meta's whole vocabulary, which has 588 of them, words are counted as the encoder encodes them."""
    start = Tokenizer.load(Path(meta.__file__).parent / "tokenizer.model")
    growth = grow_tokenizer(start, table, vocab_size=start.vocab_size + 500)
    words = table.words[::7]
    assert len(words) > 1000
    for word in words:
        assert growth.tokenizer.encode(word) == encode_by_merges(word, start, growth)


def test_weights_decide_which_language_is_learned(small, documents):
    hindi = {}
    for weight in (1, 10_000_000):
        weighted = count_corpus(documents, CountConfig(weights={"hi": weight}))
        learned = grow_tokenizer(small, weighted, vocab_size=small.vocab_size + 1000).learned
        hindi[weight] = sum(token.startswith((b"\xe0\xa4", b"\xe0\xa5")) for token in learned.tokens)
        assert weight == 1 or learned.counts[0] > 2**32
    assert hindi[10_000_000] > 1.5 * hindi[1] > 0


def test_training_gives_the_same_whatever_the_order(documents):
    texts = [text for _, text in documents]
    assert (
        train_tokenizer(texts, vocab_size=1000).fingerprint == train_tokenizer(texts[::-1], vocab_size=1000).fingerprint
    )


def test_files_hold_the_same_tokenizer(extended, tmp_path):
    tokenizer = extended.tokenizer
    tokenizer.save(tmp_path / "a" / "tokenizer.model")
    loaded = Tokenizer.load(tmp_path / "a")
    loaded.save(tmp_path / "b" / "tokenizer.model")
    data = (tmp_path / "a" / "tokenizer.model").read_bytes()
    assert (tmp_path / "b" / "tokenizer.model").read_bytes() == data
    assert loaded.fingerprint == tokenizer.fingerprint
    lines = data.splitlines()
    assert len(lines) == tokenizer.num_bpe_tokens
    assert lines[-1].split() == [base64.b64encode(extended.learned.tokens[-1]), b"%d" % (len(lines) - 1)]
    write_tokenizer_json(tokenizer, tmp_path / "b", 4096)  # raises if what it wrote is another tokenizer
    text = "नमस्ते <|eot_id|> hello"
    ids = meta.Tokenizer(tmp_path / "a" / "tokenizer.model").encode(text, bos=True, eos=True)
    assert tokenizer.encode(text, bos=True, eos=True) == ids


def test_more_tokens_than_can_be_learned(small):
    table = count_corpus([("x", "абаб абаб абв")], CountConfig())
    growth = grow_tokenizer(small, table, vocab_size=100_000)
    assert growth.tokenizer.vocab_size == small.vocab_size + len(growth.learned.tokens) < small.vocab_size + 10
    with pytest.raises(ValueError, match=rf"it gives {growth.tokenizer.vocab_size} tokens of the 100000 asked for"):
        check_reached(growth.tokenizer, 100_000)
    check_reached(growth.tokenizer, growth.tokenizer.vocab_size)


def test_sizes_are_checked(small):
    with pytest.raises(ValueError, match="at least 2256 .2000 tokens and 256 special tokens., got 2255"):
        check_size(small, 2255)
    with pytest.raises(ValueError, match="at least 512 .256 bytes and 256 special"):
        check_size(bytes_only(), 3)
    for number in (255, 2001):
        with pytest.raises(ValueError, match="num_tokens must be from 256 to 2000"):
            first_tokens(small, number)
    assert first_tokens(small, 300).learned_tokens == small.learned_tokens[:300]


def test_a_megabyte_without_a_space_is_learned_from(small):
    table = count_corpus([("x", "аб" * 500_000), ("x", "\0" * 100_000), ("x", "\ud800")], CountConfig())
    growth = grow_tokenizer(small, table, vocab_size=small.vocab_size + 40)
    assert len(growth.learned.tokens) >= 10
    text = "аб" * 100 + "\0\0\0"
    assert growth.tokenizer.decode(growth.tokenizer.encode(text)) == text

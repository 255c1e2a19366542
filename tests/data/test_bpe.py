"""Merges are those of the rule, told by a slow program of a few lines, and those of `tokenizers`."""

import collections
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data import bpe
from llama3_jax.data.bpe import EncodedWords, learn_merges
from llama3_jax.data.tokenizer import SPLIT_REGEX, Tokenizer, byte_level, single_bytes
from llama3_jax.data.tokenizer_training import bytes_only
from llama3_jax.data.words import count_words

BYTES = single_bytes()
STDLIB = Path(os.__file__).parent
WORDS = st.dictionaries(
    st.text("ab", min_size=1, max_size=12) | st.text("abcd", min_size=1, max_size=6), st.integers(1, 9)
)


def encoded(tokenizer: Tokenizer, counts: dict[str, int]) -> EncodedWords:
    ids, lengths = tokenizer.encode_words(list(counts))
    return EncodedWords(ids, lengths, np.array(list(counts.values()), np.int64))


def join(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    joined, place = [], 0
    while place < len(ids):
        found = tuple(ids[place : place + 2]) == pair
        joined.append(new if found else ids[place])
        place += 2 if found else 1
    return joined


def encode_by_ranks(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's rule: a word that is a token is one; else the neighbours that make the lowest token are joined."""
    parts = [word] if word in ranks else [word[place : place + 1] for place in range(len(word))]
    while len(parts) > 1:
        pairs = [ranks.get(first + second, len(ranks)) for first, second in itertools.pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] == len(ranks):
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [ranks[part] for part in parts]


def learn_slowly(counts: dict[str, int], frozen: list[bytes], num_tokens: int) -> tuple[list, set]:
    """Merges with their counts, and what was refused; all words are encoded anew, from their bytes, for every merge."""
    tokens, merges, refused = list(frozen), [], set()
    while len(merges) < num_tokens:
        ranks = {token: rank for rank, token in enumerate(tokens)}
        state = {word: encode_by_ranks(word.encode(), ranks) for word in counts}
        pairs = collections.Counter()
        for word, ids in state.items():
            for pair in itertools.pairwise(ids):
                pairs[pair] += counts[word]
        found = [(-count, pair) for pair, count in pairs.items() if count >= 2 and pair not in refused]
        if not found:
            break
        count, pair = min(found)
        new, token = len(tokens), tokens[pair[0]] + tokens[pair[1]]
        longer = ranks | {token: new}
        if any(join(ids, pair, new) != encode_by_ranks(word.encode(), longer) for word, ids in state.items()):
            refused.add(pair)
            continue
        merges.append((pair, -count))
        tokens.append(token)
    return merges, refused


@pytest.mark.parametrize("followed", [1, 3, 2000])
@settings(max_examples=60, deadline=None)
@given(counts=WORDS, num_tokens=st.integers(1, 12))
def test_merges_follow_the_rule(followed, counts, num_tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_FIRST_FOLLOWED", followed)
        learned = learn_merges(encoded(bytes_only(), counts), BYTES, num_tokens)
    merges, refused = learn_slowly(counts, BYTES, num_tokens)
    assert list(zip(learned.merges, learned.counts, strict=True)) == merges
    assert not refused and learned.refused == 0


@pytest.mark.parametrize("followed", [1, 2000])
@settings(max_examples=120, deadline=None)
@given(
    counts=WORDS,
    more=st.lists(st.text("ab", min_size=2, max_size=5) | st.text("abcd", min_size=2, max_size=4), unique=True),
    num_tokens=st.integers(1, 12),
)
def test_merges_on_any_frozen_vocabulary_follow_the_rule(followed, counts, more, num_tokens):
    """Frozen tokens that merging cannot reach, as Meta's vocabulary has 588, included."""
    frozen = BYTES + [token.encode() for token in more]
    start = Tokenizer({token: rank for rank, token in enumerate(frozen)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_FIRST_FOLLOWED", followed)
        learned = learn_merges(encoded(start, counts), frozen, num_tokens)
    merges, refused = learn_slowly(counts, frozen, num_tokens)
    assert list(zip(learned.merges, learned.counts, strict=True)) == merges
    assert learned.refused == len(refused)


def test_a_merge_that_would_set_off_another_is_refused():
    """The token abc is frozen but not reachable: the encoder would join ab, or bc, to it at once."""
    frozen = [*BYTES, b"abc"]
    start = Tokenizer({token: rank for rank, token in enumerate(frozen)})
    counts = {"xabc": 5, "ab": 4, "yz": 2}
    learned = learn_merges(encoded(start, counts), frozen, 10)
    assert learned.tokens == [b"xa", b"xab", b"xabc", b"yz"]
    assert learned.refused == 2


def train_with_tokenizers(texts: list[str], num_tokens: int) -> list[str]:
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT_REGEX), "isolated")
    to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_bytes])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + num_tokens,
        min_frequency=2,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    vocabulary = model.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def test_the_standard_library_gives_the_merges_of_tokenizers():
    texts = [path.read_text(encoding="utf-8") for path in sorted(STDLIB.glob("*.py"))[:60]]
    learned = learn_merges(encoded(bytes_only(), count_words(texts)), BYTES, 6000)
    expected = train_with_tokenizers(texts, 6000)
    assert len(learned.tokens) == 6000
    assert [byte_level(token) for token in BYTES + learned.tokens] == expected


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text("abAB 1.é漢\n", max_size=60), min_size=1, max_size=6), num_tokens=st.integers(0, 60))
def test_any_text_gives_the_merges_of_tokenizers(texts, num_tokens):
    learned = learn_merges(encoded(bytes_only(), count_words(texts)), BYTES, num_tokens)
    expected = train_with_tokenizers(texts, num_tokens)
    assert [byte_level(token) for token in BYTES + learned.tokens] == expected


def test_counts_beyond_32_bits_are_exact():
    counts = {"abab": 3, "abc": 2, "bca": 4, "ccc": 5}
    times = 2**35
    small = learn_merges(encoded(bytes_only(), counts), BYTES, 5)
    large = learn_merges(encoded(bytes_only(), {word: count * times for word, count in counts.items()}), BYTES, 5)
    assert large.merges == small.merges
    assert large.counts == [count * times for count in small.counts]
    assert large.counts[0] > 2**32
    by_one = learn_merges(encoded(bytes_only(), {"ab": 2**40, "cd": 2**40 + 1}), BYTES, 1)
    assert by_one.tokens == [b"cd"]


def test_counts_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match="do not fit 64 bits"):
        learn_merges(encoded(bytes_only(), {"abcdefgh": 2**60}), BYTES, 1)


def test_equal_counts_take_the_smaller_ids():
    learned = learn_merges(encoded(bytes_only(), {"zy": 3, "zx": 3, "ab": 3}), BYTES, 3)
    assert learned.tokens == [b"ab", b"zx", b"zy"]


def test_learning_ends_when_no_pair_is_left():
    learned = learn_merges(encoded(bytes_only(), {"aaaa": 2, "xyz": 1}), BYTES, 100)
    assert learned.tokens == [b"aa", b"aaaa"] and learned.counts == [6, 2]
    assert learn_merges(encoded(bytes_only(), {}), BYTES, 100).tokens == []
    assert learn_merges(encoded(bytes_only(), {"a": 9, "b": 9}), BYTES, 100).tokens == []
    only_once = learn_merges(encoded(bytes_only(), {"xy": 1}), BYTES, 100, min_count=1)
    assert only_once.tokens == [b"xy"]


def test_a_long_word_is_learned_from_in_time():
    """25,000 characters of one letter are the longest word the split gives; overlapping places are paired up."""
    learned = learn_merges(encoded(bytes_only(), {"a" * 25_000: 1, "ab" * 12_500: 1}), BYTES, 200)
    assert max(map(len, learned.tokens)) > 10_000


def test_the_order_of_words_does_not_matter():
    counts = count_words([(STDLIB / "heapq.py").read_text(encoding="utf-8")])
    words = list(counts)
    shuffled = {words[index]: counts[words[index]] for index in np.random.default_rng(0).permutation(len(words))}
    reference = learn_merges(encoded(bytes_only(), counts), BYTES, 300)
    assert learn_merges(encoded(bytes_only(), shuffled), BYTES, 300) == reference
    assert len(reference.tokens) == 300

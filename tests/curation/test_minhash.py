"""Signatures and candidates: against sets of strings, against theory, and against what others got wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llama3_jax.curation import clusters, minhash
from llama3_jax.curation.minhash import MinHashConfig
from llama3_jax.curation.text_batch import TextBatch

CONFIG = MinHashConfig()
VOCABULARY = np.array([f"w{number}" for number in range(20_000)])


def sign(texts, config=CONFIG):
    return minhash.signatures(TextBatch.of(texts), config)


def near_duplicates(rng, jaccard, num_words=400):
    """Two texts of random words, whose 5-grams have about this Jaccard similarity: a share of words is replaced."""
    words = rng.choice(VOCABULARY, num_words)
    # A replaced word changes 5 n-grams of each; J = kept / (2 - kept).
    kept = 2 * jaccard / (1 + jaccard)
    replaced = rng.random(num_words) < 1 - kept ** (1 / 5)
    return " ".join(words), " ".join(np.where(replaced, rng.choice(VOCABULARY, num_words), words))


def string_jaccard(first, second, n=5):
    sets = []
    for text in (first, second):
        words = text.split()
        sets.append({tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.fixture(scope="module")
def pairs():
    """Texts 2i and 2i + 1 are near-duplicates of similarities from .1 to .97; and the similarity of each pair."""
    rng = np.random.default_rng(0)
    texts = [text for _ in range(2400) for text in near_duplicates(rng, rng.uniform(0.1, 0.97))]
    batch = TextBatch.of(texts)
    return batch, np.array([string_jaccard(texts[i], texts[i + 1]) for i in range(0, len(texts), 2)])


def test_exact_similarity_is_that_of_sets_of_strings(pairs):
    batch, expected = pairs
    found = minhash.shingles(batch, CONFIG)
    edges = np.arange(len(batch)).reshape(-1, 2)
    similarity = minhash.exact_jaccard(found, edges)
    np.testing.assert_allclose(similarity, expected, atol=1e-12)
    np.testing.assert_array_equal(minhash.exact_jaccard(found, edges[:50], max_shingles=1), similarity[:50])
    np.testing.assert_array_equal(minhash.exact_jaccard(found, edges[:, ::-1]), similarity)
    assert minhash.exact_jaccard(found, np.array([[7, 7]])) == 1
    assert minhash.exact_jaccard(found, np.array([[0, 9]])) == 0


def test_repeated_ngrams_count_once():
    found = minhash.shingles(TextBatch.of(["a b a b a b a b", "a b a b a", "b a b a b x"]), MinHashConfig(ngram=2))
    pairs = np.array([[0, 1], [0, 2]])
    assert minhash.exact_jaccard(found, pairs).tolist() == [1, 2 / 3]


def test_the_share_of_equal_values_estimates_similarity_as_theory_says(pairs):
    batch, jaccard = pairs
    signatures = minhash.signatures(batch, CONFIG)
    num_permutations = CONFIG.bands * CONFIG.rows
    error = (signatures[::2] == signatures[1::2]).mean(axis=1) - jaccard
    assert (error[jaccard == 1] == 0).all()
    error, jaccard = error[jaccard < 1], jaccard[jaccard < 1]
    deviation = np.sqrt(jaccard * (1 - jaccard) / num_permutations)
    assert abs(error.mean()) < 4 * np.sqrt((deviation**2).mean() / len(jaccard))
    # Permutations that depended on one another would make the errors larger.
    chi_squared = ((error / deviation) ** 2).sum()
    assert abs(chi_squared / len(jaccard) - 1) < 5 * np.sqrt(2 / len(jaccard))


def test_recall_follows_the_s_curve(pairs):
    """In each band of similarity the share of pairs that become candidates is the one in theory, within 4 sigma."""
    batch, jaccard = pairs
    keys = minhash.band_keys(minhash.signatures(batch, CONFIG), CONFIG)
    found = (keys[::2] == keys[1::2]).any(axis=1)
    expected = 1 - (1 - jaccard**CONFIG.rows) ** CONFIG.bands
    for low, high in zip(np.arange(0.1, 0.96, 0.1), np.arange(0.2, 1.06, 0.1), strict=True):
        some = (jaccard >= low) & (jaccard < high)
        assert some.sum() > 50
        slack = 4 * np.sqrt((expected[some] * (1 - expected[some])).sum() + 1)
        assert abs(found[some].sum() - expected[some].sum()) < slack, (low, high)
    # And over the whole corpus no others: precision against exact similarity is what the curve leaves below .5.
    edges = candidates(keys)
    assert (edges[:, 0] // 2 == edges[:, 1] // 2).all()
    assert (jaccard[edges[:, 0] // 2] > 0.5).mean() > 0.97


def candidates(keys, documents=None, chunk=1000):
    """All distinct edges of band keys."""
    documents = np.arange(len(keys)) if documents is None else documents
    documents = np.repeat(documents, keys.shape[1])
    order = np.lexsort((documents, keys.reshape(-1)))
    keys, documents = keys.reshape(-1)[order], documents[order]
    chunks = ((keys[i : i + chunk], documents[i : i + chunk]) for i in range(0, len(keys), chunk))
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *minhash.star_edges(chunks)]), axis=0)


def test_a_random_pair_shares_no_band():
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(VOCABULARY, 60)) for _ in range(2000)]
    assert not len(candidates(minhash.band_keys(sign(texts), CONFIG)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["", "x", "two words", "a b c d e f g", "中文字符号", "! ?", "Z" * 5000]), max_size=9))
def test_a_signature_depends_on_no_neighbour_and_no_split(texts):
    alone = {text: sign([text])[0].tolist() for text in set(texts)}
    assert sign(texts).tolist() == [alone[text] for text in texts]


def test_splits_of_parts_and_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(VOCABULARY, size)) for size in (1, 3, 700, 0, 5, 90, 2000, 4)]
    whole = sign(texts)
    monkeypatch.setattr(minhash, "PART_BYTES", 1000)
    monkeypatch.setattr(minhash, "_BLOCK", 64)
    np.testing.assert_array_equal(sign(texts), whole)


def test_a_signature_is_the_minimum_over_the_declared_permutations():
    found = minhash.shingles(TextBatch.of(["a b c d e f g h"]), CONFIG)
    values = [value >> 32 | 1 for value in found.hash.tolist()]
    factors = minhash._factors(CONFIG).tolist()
    assert all(factor % 2 for factor in factors) and len(set(factors)) == len(factors)
    expected = [min(value * factor % 2**32 for value in values) for factor in factors]
    assert minhash.signatures_of_shingles(found, CONFIG)[0].tolist() == expected


def test_the_numbers_are_the_same_for_ever():
    """Written down once: signatures of runs, machines and versions must agree, or nothing can be added to a corpus."""
    signature = sign(["The quick brown fox jumps over the lazy dog. ดี में 中文"])[0]
    assert signature[:4].tolist() == GOLDEN_SIGNATURE
    assert minhash.band_keys(signature[None], CONFIG)[0, :2].tolist() == GOLDEN_KEYS


GOLDEN_SIGNATURE = [106516543, 114066885, 699378783, 441422529]
GOLDEN_KEYS = [10810281414722018550, 14440847748259841192]


# What other tools got wrong.


def test_documents_shorter_than_an_ngram_are_compared():
    texts = ["short text", "Short  text!", "short texts", "🎉", "🎉", "🎈", "", "", "word"]
    keys = minhash.band_keys(sign(texts), CONFIG)
    assert candidates(keys).tolist() == [[0, 1], [3, 4], [6, 7]]


@pytest.mark.parametrize("words", [("ดี", "ดุ", "ด"), ("में", "मैं", "म"), ("résumé", "resume"), ("ガ", "カ")])
@pytest.mark.parametrize("repeats", [1, 40])
def test_words_that_differ_in_marks_are_different(words, repeats):
    signatures = sign([" ".join([word] * repeats) for word in words])
    assert len(np.unique(signatures, axis=0)) == len(words)
    assert not (signatures[0] == signatures[1]).any()


def test_the_permutations_are_bijections():
    """(h * a + b) % p of 64-bit numbers wraps before the remainder, and is no permutation; ours is one by algebra."""
    values = np.random.default_rng(0).integers(0, 2**32, 10_000, np.uint32) | np.uint32(1)
    for factor in minhash._factors(CONFIG):
        permuted = values * factor
        assert (permuted % 2 == 1).all()
        np.testing.assert_array_equal(permuted * np.uint32(pow(int(factor), -1, 2**32)), values)


def test_the_smallest_value_falls_on_every_ngram_alike():
    """Min-wise independence, over many documents of six n-grams: each is the smallest one equally often."""
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(VOCABULARY, 10)) for _ in range(1500)]
    found = minhash.shingles(TextBatch.of(texts), CONFIG)
    values = (found.hash >> np.uint64(32)).astype(np.uint32).reshape(-1, 6) | np.uint32(1)
    for factor in minhash._factors(CONFIG)[:20]:
        counts = np.bincount((values * factor).argmin(axis=1), minlength=6)
        assert stats.chisquare(counts).pvalue > 1e-5


# Reduce side.


def test_a_large_group_gives_one_edge_a_document_whatever_the_chunks():
    keys = np.array([[1], [1], [1], [2], [3], [3], [3], [3]], np.uint64)
    documents = np.array([4, 5, 9, 1, 2, 3, 8, 8])
    expected = [[2, 3], [2, 8], [4, 5], [4, 9]]
    for chunk in range(1, 10):
        assert candidates(keys, documents, chunk).tolist() == expected


def test_key_zero_and_document_zero_are_like_others():
    chunks = [(np.zeros(3, np.uint64), np.arange(3))]
    assert [edges.tolist() for edges in minhash.star_edges(chunks)] == [[[0, 1], [0, 2]]]
    assert list(minhash.star_edges([])) == []
    empty = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assert sum(len(edges) for edges in minhash.star_edges([empty, *chunks, empty])) == 2


@pytest.mark.parametrize("keys, documents", [([2, 1], [0, 1]), ([1, 1], [5, 4])])
def test_keys_out_of_order_are_refused(keys, documents):
    with pytest.raises(ValueError, match="order"):
        list(minhash.star_edges([(np.array(keys, np.uint64), np.array(documents))]))


def test_documents_of_different_salts_do_not_meet():
    keys = minhash.band_keys(sign(["same text"] * 4), CONFIG, salt=np.array([1, 1, 2, 2], np.uint64))
    assert candidates(keys).tolist() == [[0, 1], [2, 3]]


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(12)), st.integers(1, 30))
def test_clusters_do_not_depend_on_order_or_chunks(order, chunk):
    texts = ["same words here", "another text", "same words here", "alone", *["third"] * 4, "another text", *"xyz"]
    ids = np.array(order)
    keys = minhash.band_keys(sign([texts[number] for number in order]), CONFIG)
    found = clusters.connected([candidates(keys, ids, chunk)])
    assert dict(zip(found.document.tolist(), found.label.tolist(), strict=True)) == {
        0: 0, 2: 0, 1: 1, 8: 1, 4: 4, 5: 4, 6: 4, 7: 4,
    }  # fmt: skip


@pytest.mark.parametrize("field, value", [("ngram", 0), ("bands", 0), ("rows", -1), ("seed", -1)])
def test_settings_without_meaning_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        MinHashConfig(**{field: value})


def test_other_seeds_give_other_signatures():
    assert not (sign(["a text"]) == sign(["a text"], MinHashConfig(seed=1))).any()
    assert (sign(["A TEXT"]) == sign(["a text"])).all()
    as_is = MinHashConfig(lower=False)
    assert not (sign(["A TEXT"], as_is) == sign(["a text"], as_is)).any()

"""Cuts by language: the declared share, exactly, whatever the ties, the parts and their order."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.classify.ranking import (
    RankingConfig,
    add_counts,
    count_digits,
    find_cuts,
    is_kept,
    rank_keys,
)


def make_ids(count: int) -> list[bytes]:
    return [hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in range(count)]


def kept_ids(scores, ids, languages, config, part_size):
    def parts():
        for start in range(0, len(ids), part_size):
            part = slice(start, start + part_size)
            yield rank_keys(np.array(scores[part], float), ids[part], languages[part], config)

    cuts = find_cuts(parts, config)
    kept = np.concatenate([is_kept(part, cuts) for part in parts()])
    return {identity for identity, keep in zip(ids, kept, strict=True) if keep}


def best(scores, ids, languages, config) -> set[bytes]:
    """What should be kept, by sorting."""
    found = set()
    for language in set(languages):
        share = config.shares.get(language, config.share)
        rows = [(-s, i) for s, i, name in zip(scores, ids, languages, strict=True) if name == language and s == s]
        found |= {identity for _, identity in sorted(rows)[: int(share * len(rows))]}
    return found


SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, float("nan"), float("inf"), float("-inf"), 0.5000001, -3.0, 7.0]),
    st.floats(-1, 2),
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(SCORES, st.sampled_from(["en", "th", "de"])), min_size=1, max_size=60),
    share=st.floats(0, 1),
    part_size=st.sampled_from([1, 7, 100]),
)
def test_the_best_share_of_each_language_is_kept(rows, share, part_size):
    scores, languages = [score for score, _ in rows], [language for _, language in rows]
    ids = make_ids(len(rows))
    config = RankingConfig(share=share, shares={"th": 1.0})
    assert kept_ids(scores, ids, languages, config, part_size) == best(scores, ids, languages, config)


def test_ties_are_cut_by_id_and_nothing_depends_on_the_order():
    ids = make_ids(1000)
    scores, languages = [0.5] * 1000, ["en"] * 1000
    config = RankingConfig(share=0.3)
    kept = kept_ids(scores, ids, languages, config, 1000)
    assert kept == set(sorted(ids)[:300])
    assert kept == kept_ids(scores, ids[::-1], languages, config, 64)


def test_ids_that_share_their_first_half_are_told_apart():
    ids = [b"\0" * 8 + bytes([0] * 7 + [number]) for number in range(10)]
    assert kept_ids([1.0] * 10, ids, ["en"] * 10, RankingConfig(share=0.5), 3) == set(ids[:5])


def test_one_document_twice_is_refused():
    with pytest.raises(ValueError, match="same score and id"):
        kept_ids([1.0, 1.0], [b"\1" * 16] * 2, ["en"] * 2, RankingConfig(share=0.5), 2)


def test_two_passes_settle_scores_that_differ():
    rng = np.random.default_rng(0)
    reads = []
    config = RankingConfig(share=0.25)
    ids = make_ids(20_000)
    ranked = rank_keys(rng.random(20_000), ids, ["en"] * 20_000, config)

    def parts():
        reads.append(1)
        yield ranked

    cuts = find_cuts(parts, config)
    assert is_kept(ranked, cuts).sum() == 5000
    assert len(reads) <= 3


def test_counts_of_parts_add_up():
    rng = np.random.default_rng(1)
    ids, config = make_ids(300), RankingConfig()
    languages = rng.choice(["en", "th"], 300)
    scores = rng.random(300)
    whole = count_digits(rank_keys(scores, ids, languages, config), {})
    total = {}
    for start in (0, 100, 200):
        part = slice(start, start + 100)
        add_counts(total, count_digits(rank_keys(scores[part], ids[part], languages[part], config), {}))
    assert whole.keys() == total.keys() == {"en", "th"}
    assert all(np.array_equal(whole[language], total[language]) for language in whole)


def test_an_empty_corpus_has_no_cuts():
    assert find_cuts(list, RankingConfig()) == {}


@pytest.mark.parametrize("settings", [{"share": 1.1}, {"shares": {"en": -1}}, {"low": 1.0}])
def test_a_senseless_config_is_refused(settings):
    with pytest.raises(ValueError, match="share|low"):
        RankingConfig(**settings)

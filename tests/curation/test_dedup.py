"""Deduplication from texts to survivors, on real text with planted copies: the same for any shards and order."""

import random
from pydoc_data import topics

import numpy as np
import pytest

from llama3_jax.curation import clusters, hashing, minhash, survivors
from llama3_jax.curation.minhash import MinHashConfig
from llama3_jax.curation.text_batch import TextBatch

CONFIG = MinHashConfig()


def changed(text, share, rng):
    """The text with a share of its words replaced."""
    return " ".join(f"new{rng.randrange(10**6)}" if rng.random() < share else word for word in text.split(" "))


@pytest.fixture(scope="module")
def corpus():
    """(texts, dates, group of each): help topics, every third one with copies, exact and with 1 word in 500 changed."""
    rng = random.Random(0)
    texts, groups = [], []
    long_topics = [text for _, text in sorted(topics.topics.items()) if len(text) > 2500][:45]
    for group, text in enumerate(long_topics):
        copies = [text] if group % 3 else [text, text, changed(text, 0.002, rng), changed(text, 0.002, rng)]
        texts += copies
        groups += [group] * len(copies)
    order = list(range(len(texts)))
    rng.shuffle(order)
    dates = np.array([rng.choice([survivors.NO_DATE, 10, 20]) for _ in texts])
    return [texts[i] for i in order], dates, np.array(groups)[order]


def candidate_edges(texts, shards, partitions):
    """Edges between documents, numbered by id, of shards (lists of ids), over hash partitions of the keys."""
    keys, documents = [], []
    for shard in shards:
        some = minhash.band_keys(minhash.signatures(TextBatch.of([texts[i] for i in shard]), CONFIG), CONFIG)
        keys.append(some.reshape(-1))
        documents.append(np.repeat(np.array(shard, np.int64), CONFIG.bands))
    keys, documents = np.concatenate(keys), np.concatenate(documents)
    for partition in range(partitions):
        mine = keys % np.uint64(partitions) == partition
        order = np.lexsort((documents[mine], keys[mine]))
        yield from minhash.star_edges([(keys[mine][order], documents[mine][order])])


def kept(texts, dates, shards, partitions, threshold=0.0):
    """The ids that stay."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *candidate_edges(texts, shards, partitions)])
    similarity = minhash.exact_jaccard(minhash.shingles(TextBatch.of(texts), CONFIG), edges)
    found = clusters.connected([edges[similarity >= threshold]])
    stays = survivors.survivors(found.label, ~dates[found.document], found.document)
    return sorted(set(range(len(texts))) - set(found.document[~stays].tolist()))


def test_of_each_group_the_newest_stays(corpus):
    """Candidates are verified: some help topics quote one another, and would join at similarities near .75."""
    texts, dates, groups = corpus
    newest = {}
    for document, (group, date) in enumerate(zip(groups.tolist(), dates.tolist(), strict=True)):
        if group not in newest or date > dates[newest[group]]:
            newest[group] = document
    assert kept(texts, dates, [range(len(texts))], 1, threshold=0.8) == sorted(newest.values())


@pytest.mark.parametrize("num_shards", [7, 64])
def test_shards_and_their_order_change_nothing(corpus, num_shards):
    texts, dates, _ = corpus
    rng = random.Random(num_shards)
    shards = [[] for _ in range(num_shards)]
    for document in rng.sample(range(len(texts)), len(texts)):
        rng.choice(shards).append(document)
    expected = kept(texts, dates, [range(len(texts))], 1)
    assert len(expected) < len(texts)
    assert kept(texts, dates, shards, partitions=3) == expected


def test_no_document_without_a_copy_is_lost():
    """A Bloom filter of another tool dropped 299 of 300 different documents."""
    texts = [f"document {number} says " + " ".join(f"{number}x{place}" for place in range(40)) for number in range(300)]
    assert kept(texts, np.zeros(300, np.int64), [range(300)], 1) == list(range(300))
    batch = TextBatch.of(texts)
    assert len(np.unique(hashing.hash_ranges(batch.data, batch.offsets[:-1], batch.offsets[1:]))) == 300

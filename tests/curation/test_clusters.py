"""Clusters against a plain search, and the document that stays, for any order of input."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation import clusters, survivors

edge_lists = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)


def plain_clusters(edges):
    """document -> smallest document that can be reached."""
    label = {document: document for edge in edges for document in edge}
    for _ in label:
        for first, second in edges:
            label[first] = label[second] = min(label[first], label[second])
    return label


@settings(deadline=None)
@given(edge_lists, st.integers(1, 10), st.integers(1, 20))
def test_clusters_are_what_can_be_reached(edges, chunk, min_edges):
    array = np.array(edges, np.int64).reshape(-1, 2) * 10**15
    chunks = [array[i : i + chunk] for i in range(0, len(array), chunk)]
    found = clusters.connected(chunks, min_edges=min_edges)
    expected = sorted((document * 10**15, label * 10**15) for document, label in plain_clusters(edges).items())
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == expected


def test_a_long_chain_is_one_cluster():
    chain = np.stack([np.arange(1, 100_001), np.arange(100_000)], axis=1)
    found = clusters.connected([chain[::-1]])
    assert (found.label == 0).all() and len(found.document) == 100_001


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=30), st.randoms())
def test_the_same_documents_stay_in_any_order(documents, random):
    """Newest first, no date last, then the smallest id."""
    dated = [(label, survivors.NO_DATE if date == 0 else date * 10**9) for label, date in documents]
    best = {}
    for number, (label, date) in enumerate(dated):
        if label not in best or date > dated[best[label]][1]:
            best[label] = number
    order = list(range(len(dated)))
    random.shuffle(order)
    label, date = (np.array([dated[number][field] for number in order], np.int64) for field in (0, 1))
    stays = survivors.survivors(label, ~date, np.array(order, np.int64))
    assert {order[place] for place in np.flatnonzero(stays)} == set(best.values())


def test_ids_may_be_text_and_keys_may_be_several():
    label = np.array([7, 7, 7, 8])
    stays = survivors.survivors(label, np.array([1.0, 0.5, 0.5, 9.0]), np.array(["a", "c", "b", "z"]))
    assert stays.tolist() == [False, False, True, True]

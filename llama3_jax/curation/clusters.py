"""From edges between documents to clusters: connected components, named after their smallest document."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph


class Clusters(NamedTuple):
    """Documents that have an edge, in order, and for each the smallest document of its cluster; both int64 [M]."""

    document: np.ndarray
    label: np.ndarray


def connected(chunks: Iterable[np.ndarray], *, min_edges: int = 1 << 22) -> Clusters:
    """The clusters of edges int64 [E, 2], in chunks of any size and order; a loop is a cluster of one.

    Memory is that of the documents that have edges, plus as many edges again, or `min_edges` if that is more: pending
    edges are replaced by clusters whenever there are so many.
    """
    clusters, pending, num_pending = Clusters(np.zeros(0, np.int64), np.zeros(0, np.int64)), [], 0
    for edges in chunks:
        pending.append(edges)
        num_pending += len(edges)
        if num_pending >= max(min_edges, len(clusters.document)):
            clusters, pending, num_pending = _merged(clusters, pending), [], 0
    return _merged(clusters, pending)


def _merged(clusters: Clusters, pending: list[np.ndarray]) -> Clusters:
    edges = np.concatenate([np.stack(clusters, axis=1), *pending])
    if not len(edges):
        return clusters
    document, node = np.unique(edges, return_inverse=True)
    node = node.reshape(edges.shape)
    graph = sparse.coo_array((np.ones(len(node), bool), (node[:, 0], node[:, 1])), shape=(len(document),) * 2)
    _, component = csgraph.connected_components(graph, directed=False)
    # Documents ascend, so the first one of a component is its smallest.
    _, first = np.unique(component, return_index=True)
    return Clusters(document, document[first][component])

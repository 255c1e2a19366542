"""Which document of each cluster stays: a declared order decides, never the order of reading (Llama 3, 3.1)."""

import numpy as np

NO_DATE = np.iinfo(np.int64).min
"""The date of a document without one: older than all."""


def survivors(label: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """True for the one document of each cluster that has the smallest keys, bool [D].

    label [D] names the clusters; keys [D] each are compared in turn, so the last should be unique (the id). Where none
    tells two documents apart, both are the same document for all we know, and the one that stands first stays.
    """
    order = np.lexsort((*reversed(keys), label))
    ordered = label[order]
    is_first = np.ones(len(label), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    stays = np.zeros(len(label), bool)
    stays[order[is_first]] = True
    return stays

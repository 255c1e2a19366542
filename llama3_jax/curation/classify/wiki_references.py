"""Training examples for "would Wikipedia cite this page?" (Llama 3, 3.1.1 model-based quality filtering).

Pages that a Wikipedia links to against others of the same crawl. Every host gives at most a few pages to each side, so
that a classifier learns what such pages are like and not which sites they are on; for the same reason the pages held
out for its test are all the pages of some hosts.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llama3_jax.curation.classify.cited_urls import CitedUrls, host_of, page_of, text_keys
from llama3_jax.curation.classify.draws import draws, is_drawn
from llama3_jax.curation.hashing import salted

MATCHES = ("url", "host")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """How examples are chosen. Raises ValueError for what makes no sense."""

    match: str = "url"  # "host": every page of a host that is cited anywhere is a positive example
    max_per_host: int = 1  # examples of one host and label
    negatives_per_positive: float = 1.0
    from_cited_hosts: bool = True  # whether pages that are not cited on hosts that are can be negative examples
    held_out_share: float = 0.1  # of the hosts
    seed: int = 0

    def __post_init__(self):
        if self.match not in MATCHES:
            raise ValueError(f"match must be one of {MATCHES}, not {self.match!r}")
        if self.max_per_host < 1:
            raise ValueError(f"max_per_host must be positive, not {self.max_per_host}")
        if not self.negatives_per_positive > 0:
            raise ValueError(f"negatives_per_positive must be positive, not {self.negatives_per_positive}")
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share must be in [0, 1), not {self.held_out_share}")


class Examples(NamedTuple):
    """The chosen documents, in the order of `rows`."""

    rows: np.ndarray  # int64, indices into the documents, ascending
    is_cited: np.ndarray  # bool
    is_held_out: np.ndarray  # bool


def choose_examples(
    ids: Sequence[bytes] | np.ndarray, urls: Sequence[str], cited: CitedUrls, config: ReferenceConfig
) -> Examples:
    """Chooses examples among documents, by their ids and URLs and not by their order.

    Documents without the URL of a web page are none. Each split has `negatives_per_positive` as many negative as
    positive examples, or fewer of the one there are too many of.
    """
    pages = [page_of(url) for url in urls]
    is_cited = cited.has_page(pages) if config.match == "url" else cited.has_host(pages)
    usable = np.array([bool(page) for page in pages], bool)
    if not config.from_cited_hosts:
        usable &= is_cited | ~cited.has_host(pages)
    hosts = text_keys(host_of(page) for page in pages)
    numbers = draws(ids, config.seed)
    chosen = _first_of_each_host(np.flatnonzero(usable), hosts, is_cited, numbers, config.max_per_host)
    # A salt of its own: the split must not follow the order in which examples are drawn.
    is_held_out = is_drawn(salted(hosts, np.array([config.seed + 1], np.uint64)), config.held_out_share)
    rows = [_balanced(chosen[is_held_out[chosen] == split], is_cited, numbers, config) for split in (False, True)]
    found = np.sort(np.concatenate(rows))
    return Examples(found, is_cited[found], is_held_out[found])


def _first_of_each_host(
    rows: np.ndarray, hosts: np.ndarray, is_cited: np.ndarray, numbers: np.ndarray, limit: int
) -> np.ndarray:
    """Of each host and label the `limit` rows with the lowest numbers."""
    rows = rows[np.lexsort((numbers[rows], is_cited[rows], hosts[rows]))]
    first = np.ones(rows.size, bool)
    first[1:] = (hosts[rows[1:]] != hosts[rows[:-1]]) | (is_cited[rows[1:]] != is_cited[rows[:-1]])
    starts = np.flatnonzero(first)
    place = np.arange(rows.size) - np.repeat(starts, np.diff(starts, append=rows.size))
    return rows[place < limit]


def _balanced(rows: np.ndarray, is_cited: np.ndarray, numbers: np.ndarray, config: ReferenceConfig) -> np.ndarray:
    """The rows with the lowest numbers, in the proportion of the config."""
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    positive, negative = rows[is_cited[rows]], rows[~is_cited[rows]]
    num_positive = min(positive.size, int(negative.size / config.negatives_per_positive))
    num_negative = min(negative.size, int(num_positive * config.negatives_per_positive))
    return np.concatenate([positive[:num_positive], negative[:num_negative]])

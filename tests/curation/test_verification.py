"""Candidates that are not similar are dismissed by their n-grams, whatever the partitions."""

import numpy as np
import pytest

from llama3_jax.curation.deduplicate import DedupConfig
from llama3_jax.curation.minhash import MinHashConfig
from tests.curation.corpus import write_files
from tests.curation.test_pipeline import config, digest, kept, run

LOOSE = MinHashConfig(bands=64, rows=1)  # nearly everything that shares an n-gram is a candidate


def totals(tmp_path, pages, name, verify, **more):
    dedup = DedupConfig(minhash=LOOSE, verify=verify)
    settings = config(tmp_path, pages, name, dedup=dedup, **more)
    steps = run(settings)
    return settings, {key: step.results(settings.workdir).total() for key, step in steps.items()}


def test_only_copies_are_dropped(tmp_path):
    pages = write_files(tmp_path / "pages", 2)
    _, loose = totals(tmp_path, pages, "loose", None)
    settings, verified = totals(tmp_path, pages, "verified", 0.8)
    _, all_edges = totals(tmp_path, pages, "low", 1e-9)
    assert loose["near-duplicates"]["dropped"] > 20 > verified["near-duplicates"]["dropped"] == 10
    assert verified["verified"]["candidates"] == all_edges["verified"]["edges"] <= verified["edges"]["edges"]
    assert all_edges["near-duplicates"] == loose["near-duplicates"]
    assert not [row for row in kept(settings) if "mirror" in row["url"]]
    other, _ = totals(tmp_path, pages, "other", 0.8, partitions=5, shuffle_parts=4)
    assert digest(other) == digest(settings)


@pytest.mark.parametrize("verify", [0.0, 1.5, -0.1])
def test_similarities_that_are_none(verify):
    with pytest.raises(ValueError, match="verify"):
        DedupConfig(verify=verify)
    assert np.isfinite(DedupConfig(verify=1.0).verify or np.nan)

"""Conversions in every direction, bit for bit, and what is refused."""

import itertools

import pytest

pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")

from tests.weights.models import FAMILY, WRITERS, assert_holds, run_conversion

DIRECTIONS = list(itertools.permutations(WRITERS, 2))


TRAITS = [
    ("llama3", "float32", 1),
    ("llama3_1", "bfloat16", 2),
    ("llama3_2", "bfloat16", 4),
    ("llama3_3", "float32", 4),
]


@pytest.mark.parametrize(("family", "dtype", "shards"), TRAITS)
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_every_bit_arrives(tmp_path, source, target, family, dtype, shards):
    config = FAMILY[family]
    WRITERS[source](tmp_path / "source", config, dtype, shards)
    run_conversion(tmp_path / "source", tmp_path / "target", target, shards=shards, file_gb=0.0002)
    assert_holds(tmp_path / "target", target, config, dtype, shards)
    run_conversion(tmp_path / "target", tmp_path / "back", source, shards=shards)
    assert_holds(tmp_path / "back", source, config, dtype, shards)

"""Devices that are not here, for tests that compile for them."""

import importlib.util

import pytest

from llama3_jax.plan.topology import parse_topology, topology_devices

COMPILER = {"tpu": "libtpu", "cuda": "jax_cuda13_plugin"}


def devices_of(monkeypatch, topology: str) -> list:
    """The devices of a topology such as "v5p:2x2x1" or "h100x8". Skips the test where nothing compiles for them."""
    platform = parse_topology(topology).hardware.platform
    if importlib.util.find_spec(COMPILER[platform]) is None:
        pytest.skip(f"nothing here compiles for {platform}")
    for name, value in {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}.items():
        monkeypatch.setenv(name, value)
    return topology_devices(parse_topology(topology))

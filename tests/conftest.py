"""Every test sees eight simulated CPU devices, warnings as errors and no silent rank promotion (house rule)."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(config, items):
    """`slow` and `tpu_aot` tests run only when their marker is asked for with -m."""
    asked = config.option.markexpr
    for item in items:
        for marker in ("slow", "tpu_aot", "gpu"):
            if marker in item.keywords and marker not in asked:
                item.add_marker(pytest.mark.skip(reason=f"run with -m {marker}"))

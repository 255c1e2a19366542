"""Every test sees eight simulated CPU devices, warnings as errors and no silent rank promotion (house rule)."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600"  # 40 s can be too few for 8 devices on 2 busy cores
)
# A collective holds the thread of each simulated device that waits in it; with one thread a device, several that may
# run in any order can take them all and wait for ever.
os.environ.setdefault("PJRT_NPROC", "64")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests run the same programs again, some in processes of their own: compile each once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests import object_storage
from tests.train.runs import write_inputs

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A tokenizer and two token stores, made once per session."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An empty gs://bucket in memory, in an empty current folder that must stay so."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield object_storage.install(monkeypatch)
    assert not list(here.iterdir())


@pytest.fixture(autouse=True)
def fresh_programs_ahead_of_time(request):
    """No cache for programs of devices that are not here: without the devices JAX cannot read them back."""
    ahead = any(request.node.get_closest_marker(name) for name in ("tpu_aot", "cuda_aot"))
    if ahead:
        _use_cache(False)
    yield
    if ahead:
        _use_cache(True)


def _use_cache(enabled):
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # or it remembers whether it was in use


def pytest_collection_modifyitems(config, items):
    """`slow`, ahead-of-time and `gpu` tests run only when their marker is asked for with -m."""
    asked = config.option.markexpr
    for item in items:
        for marker in ("slow", "tpu_aot", "cuda_aot", "gpu"):
            if marker in item.keywords and marker not in asked:
                item.add_marker(pytest.mark.skip(reason=f"run with -m {marker}"))

"""A conversion's memory is that of a few arrays, however large the model is: measured in a process of its own."""

import json
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from llama3_jax.model.convert import slots
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.weights.convert import FORMATS
from llama3_jax.weights.format import Options, Plan

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
SHAPE = {"embed_dim": 1024, "num_heads": 16, "num_kv_heads": 8, "head_dim": 64, "mlp_dim": 4096, "vocab_size": 16_384}
MODEL = LlamaConfig(num_layers=12, **SHAPE)  # 444 MB in bfloat16, its largest array 34 MB
TWICE = LlamaConfig(num_layers=24, **SHAPE)  # 822 MB


def write_random(folder: pathlib.Path, config: LlamaConfig) -> None:
    form, dtype = FORMATS["hugging_face"], np.dtype(ml_dtypes.bfloat16)
    files = form.plan(config, dict.fromkeys(slots(config), dtype), Options())
    folder.mkdir()
    sink = form.begin(folder, Plan(config, tuple(files), dtype.name, "random", None, None))
    rng = np.random.default_rng(0)
    for slot in slots(config):
        sink.write(slot, rng.integers(0, 2**14, slot.shape(config), dtype=np.uint16).view(dtype))


def measure(
    source: pathlib.Path, target: pathlib.Path, to: str, dtype: str = "keep", shards: int = 1, quantize: str = "keep"
) -> dict[str, int]:
    arguments = [str(source), str(target), to, dtype, str(shards), quantize]
    result = subprocess.run(
        [sys.executable, "-m", "tests.weights.peak_memory", *arguments], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    measured = json.loads(result.stdout.splitlines()[-1])
    assert measured["growth"] <= measured["bound"]
    return measured


def test_the_peak_is_a_few_arrays(tmp_path):
    write_random(tmp_path / "theirs", MODEL)
    for source, target in (("theirs", "llama3_jax"), ("llama3_jax", "meta")):
        measured = measure(tmp_path / source, tmp_path / target, target, shards=2)
        assert measured["growth"] < 0.7 * measured["model"]


def test_quantising_takes_no_more(tmp_path):
    write_random(tmp_path / "theirs", MODEL)
    measured = measure(tmp_path / "theirs", tmp_path / "fp8", "hugging_face", quantize="fp8")
    assert measured["growth"] < 0.7 * measured["model"]
    measure(tmp_path / "fp8", tmp_path / "plain", "llama3_jax", quantize="none")


@pytest.mark.slow
def test_twice_the_layers_take_no_more(tmp_path):
    growth = []
    for name, config in (("once", MODEL), ("twice", TWICE)):
        write_random(tmp_path / name, config)
        growth.append(measure(tmp_path / name, tmp_path / f"{name}_ours", "llama3_jax", "float32")["growth"])
    assert growth[1] < 1.25 * growth[0]
    measure(tmp_path / "once_ours", tmp_path / "meta", "meta", "bfloat16", 4)
    measure(tmp_path / "meta", tmp_path / "back", "hugging_face")
    back, there = (tmp_path / name / "model.safetensors" for name in ("back", "once"))
    assert back.read_bytes() == there.read_bytes()

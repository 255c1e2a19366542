"""Speeds that other projects published for bf16 training of Llama shapes: what the planner's rates are fitted on.

Tokens per second and device, so no convention of counting FLOPs matters. Values kept in host memory count as kept: the
policy says what is computed again. Rows of one kind of hardware are in the order of their source.

Left out: everything in FP8 or int8 (not what we train in); eager PyTorch and asynchronous tensor parallelism (other
programs); MaxText's 405B on one v6e-256 (its MFU and tokens/s disagree); Llama 2 7B on A3 (batch and network not
stated); NeMo (FP8); Levanter (GPT-2 shapes).

torchtitan's H100s run at 500 W with 2.4 TB/s of memory: a kind of hardware of their own.
"""

import dataclasses

from benchmarks.ahead_of_time import Run
from llama3_jax.model.llama import HERD, LlamaConfig
from llama3_jax.plan.topology import HARDWARE, Hardware

LLAMA2_7B = LlamaConfig(vocab_size=32_000, num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=32, mlp_dim=11_008)
LLAMA2_70B = dataclasses.replace(HERD["llama3_70b"], vocab_size=32_768)
MODELS = HERD | {"llama2_7b": LLAMA2_7B, "llama2_70b": LLAMA2_70B}
H100_500W = dataclasses.replace(HARDWARE["h100"], name="h100_500w", memory_rate=2.4e12)

QKV = "save:query,key,value"
PROJECTIONS = f"{QKV},residual"
FLASH = f"{QKV},attention,attention_residuals"
SELECTIVE = "save:query,value,attention,attention_residuals,gate"  # torchtitan "op": every other product

RECIPES = "AI-Hypercomputer/tpu-recipes training"
TRILLIUM = f"{RECIPES}/trillium; AI-Hypercomputer/maxtext benchmarks/maxtext_trillium_model_configs.py"
TITAN = "pytorch/torchtitan benchmarks/llama3_h100_202412_torchtitan.md"
ASYNC = "pytorch/torchtitan benchmarks/asyncTP_llama3_h100_2025-06_torchtitan.md"
FUJI = "apple/axlearn axlearn/experiments/text/gpt/fuji.py"


@dataclasses.dataclass(frozen=True)
class Row:
    """A published run: tokens per second and device (as JAX counts devices: half a tpu7x chip)."""

    hardware: Hardware
    devices: int
    run: Run
    speed: float
    source: str


def _run(model: str, rows: int, **settings) -> Run:
    return Run(model, "unused", rows, **settings)


_V5E, _V5P, _V6E, _TPU7X, _H100 = (HARDWARE[name] for name in ("v5e", "v5p", "v6e", "tpu7x", "h100"))
_SPEED_8B = {8: 7138.9, 16: 7243.4, 32: 7031.7, 64: 7247.1, 128: 7119.6, 256: 7207.3}
_SPEED_70B = {32: 921.0, 64: 876.7, 128: 942.0, 256: 960.2}
_FUJI = {"length": 4096, "rows": 1024}

ROWS = (
    *(Row(_V6E, n, _run("llama3_1_8b", 4 * n, remat=PROJECTIONS), s, TRILLIUM) for n, s in _SPEED_8B.items()),
    *(Row(_V6E, n, _run("llama3_1_70b", 4 * n, remat=QKV), s, TRILLIUM) for n, s in _SPEED_70B.items()),
    Row(_V6E, 512, _run("llama3_1_405b", 512, tensor=4, remat=PROJECTIONS), 149.5, TRILLIUM),
    Row(_V6E, 1024, _run("llama2_70b", data=4, remat=PROJECTIONS, **_FUJI), 836, FUJI),
    Row(_V6E, 256, _run("llama2_70b", micro_batches=4, remat=PROJECTIONS, **_FUJI), 840, FUJI),
    Row(_V5P, 512, _run("llama3_1_405b", 1024, remat="save:attention,attention_residuals"), 124.6, f"{RECIPES}/v5p"),
    Row(_V5E, 1024, _run("llama2_7b", data=4, remat="dots", **_FUJI), 1853, FUJI),
    Row(_V5E, 1024, _run("llama2_70b", data=4, remat="dots", **_FUJI), 285, FUJI),
    Row(_TPU7X, 128, _run("llama3_1_70b", 256, remat=FLASH), 2687.0 / 2, f"{RECIPES}/ironwood"),
    Row(_TPU7X, 512, _run("llama3_1_70b", 1024, remat=FLASH), 2670.6 / 2, f"{RECIPES}/ironwood"),
    Row(
        _TPU7X, 512, _run("llama3_1_70b", 64, length=131_072, context=8, remat=FLASH), 963.0 / 2, f"{RECIPES}/ironwood"
    ),
    Row(_TPU7X, 512, _run("llama3_1_405b", 1536, remat="save:key,value"), 499.8 / 2, f"{RECIPES}/ironwood"),
    Row(_H100, 128, _run("llama3_70b", 256), 1052.3, "NGC dgxc-benchmarking maxtext-llama3-70b 25.02"),
    Row(
        _H100, 8, _run("llama2_7b", 16, length=4096, remat="dots"), 11_361, "NVIDIA/JAX-Toolbox docs/frameworks/maxtext"
    ),
    Row(_H100, 256, _run("llama2_7b", data=32, remat=f"{PROJECTIONS},attention", **_FUJI), 9204, FUJI),
    Row(_H100, 512, _run("llama2_70b", data=4, remat=f"{PROJECTIONS},attention", **_FUJI), 635, FUJI),
    Row(H100_500W, 8, _run("llama3_1_8b", 16, remat=SELECTIVE), 6667, TITAN),
    Row(H100_500W, 128, _run("llama3_1_8b", 256, remat=SELECTIVE), 6514, TITAN),
    Row(H100_500W, 64, _run("llama3_1_8b", 96, tensor=8, remat=SELECTIVE), 4378, ASYNC),
    Row(H100_500W, 256, _run("llama3_1_70b", 512, tensor=8), 597.3, ASYNC),
)

_TABLE_4 = {"tensor": 8, "stage": 16, "chunks": 8, "group": 16, "remat": "none"}


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Table 4: what it says its hardware did."""

    devices: int
    run: Run
    mfu: float


TABLE_4 = (
    PaperRow(8192, _run("llama3_405b", 2048, micro_batches=32, **_TABLE_4), 0.43),
    PaperRow(16_384, _run("llama3_405b", 2048, micro_batches=16, **_TABLE_4), 0.41),
    PaperRow(16_384, _run("llama3_1_405b", 128, length=131_072, context=16, micro_batches=16, **_TABLE_4), 0.38),
)

"""Multiply-adds of single HLO instructions, from their shapes: dots, convolutions, GEMM calls, attention kernels.

TPU programs write every matmul as a convolution, whose padding and dilation XLA also uses to say "batch"; GPU programs
call cuBLAS. A multiply-add is two FLOPs, as everywhere in this project.
"""

import functools
import json
import math
import re

from llama3_jax.plan.hlo_text import Array, Computation, Instruction

# Matmuls of queries by keys that one call runs. Forward: scores and values. Backward for queries: scores, their
# gradient, dq; for keys and values: scores, their gradient, dv, dk; all at once: five.
_FORWARD, _BACKWARD = 2, {1: 3, 2: 4, 3: 5}  # by the number of gradients that come out
# Kernels by their custom call's target, and which dim of k, from its end, holds the keys: [B,K,T,E] in splash, else
# [B,T,K,E]. A batch of one may have lost its dim.
_KEY_DIM = {"tpu_custom_call": -2, "mosaic_gpu_v2": -3, "__gpu$xla.gpu.triton": -3}
_FLOATS = ("bf16", "f16", "f32")


def dot_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a `dot`."""
    left = _operand(instruction, computation, 0)
    dims = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims") or "")
    if left is None or not instruction.arrays:
        return 0.0
    return 2.0 * instruction.arrays[0].size * math.prod(left.dims[int(dim)] for dim in dims)


def gemm_call_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a cuBLAS custom call; 0 for any other custom call."""
    if not re.search(r'custom_call_target="__cublas\$', instruction.attributes):
        return 0.0
    found = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', instruction.attributes)
    left = _operand(instruction, computation, 0)
    if found is None or left is None or not instruction.arrays:
        return 0.0
    contracted = math.prod(left.dims[int(dim)] for dim in json.loads(found[1]))
    return 2.0 * instruction.arrays[0].size * contracted  # the second result is the workspace


def convolution_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a `convolution`, taps that fall on padding or between dilated inputs not counted."""
    left, right = _operand(instruction, computation, 0), _operand(instruction, computation, 1)
    labels = re.fullmatch(r"(\w+)_(\w+)->(\w+)", instruction.attribute("dim_labels") or "")
    if left is None or right is None or labels is None or not instruction.arrays:
        return 0.0
    inputs, kernel, output = labels.groups()
    out = instruction.arrays[0]
    window = _window(instruction.attribute("window") or "{}")
    taps = 1
    spatial = [letter for letter in kernel if letter.isdigit()]
    for letter in spatial:
        taps *= _valid_taps(
            left.dims[inputs.index(letter)],
            right.dims[kernel.index(letter)],
            out.dims[output.index(letter)],
            *(_entry(window, name, int(letter), default) for name, default in _WINDOW_DEFAULTS),
        )
    groups = int(instruction.attribute("batch_group_count") or 1)
    batch = left.dims[inputs.index("b")] // groups
    return 2.0 * batch * right.dims[kernel.index("i")] * out.dims[output.index("f")] * taps


def attention_call_flops(instruction: Instruction, computation: Computation) -> tuple[str, float] | None:
    """Name of the pass and causal FLOPs (half of every query times every key) of an attention kernel, else None.

    XLA cannot look into a kernel. Attention is known by its operands: q, k and v with three or four dims, the last
    the head size, k and v alike; a backward pass also takes the output's gradient, shaped like q.
    """
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    arrays = computation.operand_arrays(instruction)
    heads = [array for array in arrays if len(array.dims) in (3, 4) and array.dtype in _FLOATS]
    if target is None or target[1] not in _KEY_DIM or len(heads) < 3:
        return None
    q, k = heads[0], heads[1]
    if k != heads[2] or len(q.dims) != len(k.dims) or q.dims[-1] != k.dims[-1]:
        return None
    gradients = [array for array in instruction.arrays if array in (q, k)]
    backward = q in heads[3:]
    matmuls = _BACKWARD.get(len(gradients), 0) if backward else _FORWARD
    if not matmuls:
        return None
    name = "forward" if not backward else "backward " + {3: "dq", 4: "dk dv"}.get(matmuls, "dq dk dv")
    keys = k.dims[_KEY_DIM[target[1]]]
    return name, matmuls * math.prod(q.dims) * keys  # times 2 FLOPs, times a half


_WINDOW_DEFAULTS = (
    ("stride", "1"),
    ("pad", "0_0"),
    ("lhs_dilate", "1"),
    ("rhs_dilate", "1"),
)


def _operand(instruction: Instruction, computation: Computation, index: int) -> Array | None:
    names = instruction.operands
    if index >= len(names) or names[index] not in computation.instructions:
        return None
    arrays = computation.instructions[names[index]].arrays
    return arrays[0] if arrays else None


def _window(text: str) -> dict[str, list[str]]:
    fields = (field.split("=") for field in text.strip("{}").split() if "=" in field)
    return {name: value.split("x") for name, value in fields}


def _entry(window: dict[str, list[str]], name: str, index: int, default: str) -> str:
    return window.get(name, [])[index] if name in window else default


@functools.lru_cache(maxsize=4096)
def _valid_taps(inputs: int, kernel: int, outputs: int, stride: str, pad: str, lhs_dilate: str, rhs_dilate: str) -> int:
    """Pairs of output and kernel places that meet a real input; reversing the kernel does not change their number."""
    low = int(pad.split("_")[0])
    step, spread, gap = int(stride), int(lhs_dilate), int(rhs_dilate)
    if kernel == 1 and low == 0 and spread == 1:
        return outputs
    last = (inputs - 1) * spread
    count = 0
    for place in range(outputs):
        start = place * step - low
        for tap in range(kernel):
            at = start + tap * gap
            count += 0 <= at <= last and at % spread == 0
    return count

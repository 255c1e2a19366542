"""How much memory a conversion takes beyond what its process has before: prints one JSON line.

python -m tests.weights.peak_memory INPUT OUTPUT FORMAT DTYPE SHARDS QUANTIZE
"""

import json
import pathlib
import sys

import jax

from llama3_jax.weights.convert import Request, convert, prepare
from llama3_jax.weights.format import Options


def resident(key: str) -> int:
    """Bytes of VmRSS, what is resident now, or of VmHWM, the most that was."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    source, target, to, dtype, shards, quantize = sys.argv[1:]
    options = Options(shards=int(shards))
    request = Request(input=source, output=target, to=to, dtype=dtype, quantize=quantize, options=options)
    jax.devices()  # the program itself, before a conversion starts
    conversion = prepare(request)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    convert(request, conversion, lambda text: None)
    growth = resident("VmHWM") - before
    print(json.dumps({"growth": growth, "bound": conversion.peak_bytes, "model": conversion.num_bytes}))

"""How much of a training step does an asynchronous checkpoint block?

    python -m benchmarks.checkpoint [--layers 8 --embed 512 ...]

One JSON line: seconds of a step, seconds that `Checkpoints.save` blocks the loop, seconds until the background write is
committed, size on disk, and the blocked time as a fraction of a step; medians of several saves to a temporary folder.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks.train_step import make_state_and_step
from llama3_jax.core.params import count_params
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.train.checkpoint import CheckpointConfig, Checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("embed", 512), ("batch", 4), ("sequence", 512), ("saves", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    config = LlamaConfig(
        vocab_size=8192,
        num_layers=arguments.layers,
        embed_dim=arguments.embed,
        num_heads=arguments.embed // 64,
        num_kv_heads=arguments.embed // 128,
        head_dim=64,
        mlp_dim=3 * arguments.embed,
    )
    tokens_BS = np.random.default_rng(0).integers(0, 8192, (arguments.batch, arguments.sequence)).astype(np.int32)
    state, run_step = make_state_and_step(config, "float32", "none", tokens_BS)
    step_seconds, blocked, committed = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, CheckpointConfig(keep_last=1))
        for number in range(arguments.saves + 2):
            start = time.perf_counter()
            state, metrics = run_step(state)
            jax.block_until_ready(metrics)
            step_seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
            blocked.append(checkpoints.save(number + 1, state, {"step": number + 1}))
            checkpoints.wait()
            committed.append(time.perf_counter() - start)
        size = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
        checkpoints.close()
    step, block = statistics.median(step_seconds[2:]), statistics.median(blocked[2:])
    result = {
        "benchmark": "checkpoint",
        "parameters": count_params(Llama(config)),
        "checkpoint_megabytes": round(size / 1e6, 1),
        "step_seconds": round(step, 4),
        "blocked_seconds": round(block, 4),
        "committed_seconds": round(statistics.median(committed[2:]), 4),
        "blocked_fraction_of_a_step": round(block / step, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

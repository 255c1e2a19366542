"""Meta's own transformer (PyPI's `llama-models`, with fairscale) on the CPU, as one process or as one rank of several.

    python -m tests.weights.meta_reference FOLDER RANK NUM_RANKS FACTOR

loads `consolidated.RANK.pth` of a folder as that rank and writes the logits of `tokens.npy` there to `logits.RANK.npy`.
"""

import contextlib
import inspect
import io
import json
import pathlib
import sys

import fairscale.nn.model_parallel.initialize as parallel
import llama_models.llama3.model as reference
import numpy as np
import torch
from llama_models.llama3.args import ModelArgs

MAX_LENGTH = 64


def start(folder: pathlib.Path, rank: int = 0, num_ranks: int = 1) -> None:
    """Joins the ranks over gloo; `folder` is where they meet."""
    with contextlib.redirect_stdout(io.StringIO()):
        place = f"file://{folder}/ranks"
        torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=num_ranks)
        parallel.initialize_model_parallel(num_ranks)


def stop() -> None:
    """Leaves the other ranks."""
    parallel.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def load(folder: pathlib.Path, rank: int = 0, max_length: int = MAX_LENGTH):
    """The reference model with a folder's weights, every name accounted for."""
    params = json.loads((folder / "params.json").read_text())
    model = reference.Transformer(ModelArgs(max_seq_len=max_length, max_batch_size=2, **params))
    weights = torch.load(folder / f"consolidated.{rank:02}.pth", weights_only=True, mmap=True)
    model.load_state_dict(weights, strict=True)
    return model


def shift(model, first_position: int, factor: float) -> None:
    """Makes the model take its first token for position `first_position`, and scale rotary frequencies by `factor`.

    The reference's frequencies know one factor, 8; for another its own function is run with that number in its place.
    """
    args = model.params
    names = dict(vars(reference))
    scaling = inspect.getsource(reference.apply_scaling)
    assert scaling.count("scale_factor = 8\n") == 1
    exec(scaling.replace("scale_factor = 8\n", f"scale_factor = {factor:g}\n"), names)
    exec(inspect.getsource(reference.precompute_freqs_cis), names)
    length = first_position + 2 * args.max_seq_len
    frequencies = names["precompute_freqs_cis"](args.dim // args.n_heads, length, args.rope_theta, args.use_scaled_rope)
    model.freqs_cis = frequencies[first_position:]


if __name__ == "__main__":
    place, number, count = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    start(place, number, count)
    tokens = torch.from_numpy(np.load(place / "tokens.npy")).long()
    transformer = load(place, number)
    shift(transformer, 0, float(sys.argv[4]))
    np.save(place / f"logits.{number}.npy", transformer(tokens, 0).numpy())
    stop()

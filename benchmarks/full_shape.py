"""Does a model of its real size, converted, answer as `transformers` does? One JSON line.

    python -m benchmarks.full_shape --model=llama3_2_1b    # 5 GB of disk and 12 GB of memory

Weights are random, written as Hugging Face's files in bfloat16, converted as by `llama3 convert` and computed in
float32 by both: greedy answers to prompts of three lengths, and the log-probabilities of their tokens. Tests do the
same with small shapes.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
import torch
import transformers

from llama3_jax.commands.serving import generator_of, place
from llama3_jax.infer.request import Request, SamplingConfig
from llama3_jax.model.llama import HERD
from llama3_jax.train.load import open_stored
from tests.weights.models import run_conversion, write_hugging_face

NEW = 16
Answer = tuple[list[int], list[float]]  # tokens, and their log-probabilities


def ours(folder: pathlib.Path, prompts: list[list[int]], stage: int) -> list[Answer]:
    """Greedy answers of the converted model, over `stage` pipeline stages."""
    no_tokenizer: Any = None  # prompts and answers are tokens
    model = place(open_stored(str(folder)), no_tokenizer, dtype="float32", stage=stage)
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=NEW, logprobs=1)
    generator = generator_of(model, [len(prompt) + NEW for prompt in prompts])
    completions = generator.complete([Request(prompt=prompt, sampling=sampling) for prompt in prompts])
    return [(found.tokens, [score.logprob for score in found.scores]) for found in completions]


@torch.inference_mode()
def theirs(folder: pathlib.Path, prompts: list[list[int]], answers: list[Answer]) -> list[Answer]:
    """What `transformers` says after each prompt and each token of our answers."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt, (tokens, _) in zip(prompts, answers, strict=True):
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
        likely = logits.argmax(-1)
        logprobs = logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)]
        found.append((likely.tolist(), logprobs.tolist()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama3_2_1b", choices=HERD)
    parser.add_argument("--stage", type=int, default=1, help="pipeline stages, each on a device")
    options = parser.parse_args()
    config = HERD[options.model]
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, config.vocab_size, length).tolist() for length in (7, 40, 300)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_hugging_face(folder / "theirs", config, "bfloat16")
        started = time.perf_counter()
        run_conversion(folder / "theirs", folder / "ours", "llama3_jax")
        seconds = time.perf_counter() - started
        answers = ours(folder / "ours", prompts, options.stage)
        judged = theirs(folder / "theirs", prompts, answers)
    differences = [np.abs(np.subtract(a[1], b[1])).max() for a, b in zip(answers, judged, strict=True)]
    result = {
        "benchmark": "full_shape",
        **vars(options),
        "convert_seconds": round(seconds, 1),
        "same_tokens": [a[0] for a in answers] == [b[0] for b in judged],
        "largest_difference": float(max(differences)),
        "mean_logprob": float(np.mean([a[1] for a in answers])),
    }
    versions = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(result | versions))


if __name__ == "__main__":
    main()

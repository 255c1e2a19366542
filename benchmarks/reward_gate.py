"""Do 8 bits change a model's answers? The gate of evaluate/reward_gate.py on a trained model, with the serving engine.

    for grid in none fp8 int8; do
      llama3 convert --input=runs/quickstart/model --to=llama3_jax --quantize=$grid --output=runs/$grid
    done
    python -m benchmarks.reward_gate runs/none runs/none runs/fp8 runs/int8 --text=runs/quickstart/tokens/held_out

Prompts are 16 tokens of the text, answers the 16 after them, drawn at temperature 1; the reward of an answer is the
reference's own mean log-likelihood of it. The first checkpoint is the reference; as a candidate too it is asked again,
with other draws, so that chance can be seen. Prints one JSON line per candidate; --pictures is for their histograms.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llama3_jax.commands.serving import place
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.token_store import TokenStore
from llama3_jax.evaluate.baselines import documents
from llama3_jax.evaluate.reward_gate import GateConfig, draw, reward_gate
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.request import Request, SamplingConfig
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.train.load import load_model, open_stored

PROMPT, ANSWER, ROWS = 16, 16, 512


def answers(checkpoint: str, prompts: Sequence[Sequence[int]], seed: int) -> np.ndarray:
    """Prompts and answers, int32 `[N, PROMPT + ANSWER]`."""
    stored = open_stored(checkpoint)
    tokenizer = stored.load_tokenizer()
    if tokenizer is None:
        raise ValueError(f"{checkpoint} was converted without a tokenizer; convert it with --tokenizer")
    length = PROMPT + ANSWER
    sizes = SchedulerConfig(num_slots=ROWS, num_pages=ROWS, page_size=length, max_length=length, share_prefixes=False)
    generator = Generator(place(stored, tokenizer).engine(sizes))
    settings = {"max_new_tokens": ANSWER, "temperature": 1.0, "top_p": 1.0}
    samplings = [SamplingConfig(seed=seed * len(prompts) + number, **settings) for number in range(len(prompts))]
    requests = [Request(prompt=p, sampling=s) for p, s in zip(prompts, samplings, strict=True)]
    return np.array([[*done.request.prompt, *done.tokens] for done in generator.complete(requests)], np.int32)


def likelihood(checkpoint: str):
    """`reward(tokens_NS)`: the model's mean log-likelihood of each answer."""
    trained = load_model(checkpoint, make_mesh(MeshConfig(), jax.devices()[:1]))

    @jax.jit
    def score(params, tokens_BS):
        log_probs_BSV = jax.nn.log_softmax(nnx.merge(trained.graphdef, params)(tokens_BS))[:, PROMPT - 1 : -1]
        return jnp.mean(jnp.take_along_axis(log_probs_BSV, tokens_BS[:, PROMPT:, None], axis=-1), axis=(1, 2))

    def reward(tokens_NS):
        padded = np.pad(tokens_NS, ((0, -len(tokens_NS) % ROWS), (0, 0)))
        scores = [score(trained.params, padded[start : start + ROWS]) for start in range(0, len(padded), ROWS)]
        return np.concatenate(scores)[: len(tokens_NS)]

    return reward


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("reference", help="checkpoint of the unquantised model")
    parser.add_argument("candidates", nargs="+", help="checkpoints to compare with it")
    parser.add_argument("--text", required=True, help="token store to take prompts from")
    parser.add_argument("--answers", type=int, default=GateConfig().min_answers)
    parser.add_argument("--pictures", type=pathlib.Path)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    text = np.concatenate([document[1:-1] for document in documents(TokenStore.open(args.text))])
    starts = np.random.default_rng(0).integers(0, len(text) - PROMPT, args.answers)
    prompts = [text[start : start + PROMPT].tolist() for start in starts]
    reward, reference = likelihood(args.reference), answers(args.reference, prompts, 0)
    for seed, checkpoint in enumerate(args.candidates, start=1):
        start = time.perf_counter()
        candidate = answers(checkpoint, prompts, seed)
        seconds, found = time.perf_counter() - start, reward_gate(reward, reference, candidate)
        name = pathlib.Path(checkpoint).name
        measured = {"distance": found.distance, "shift": found.shift, "low_share": found.low_share}
        chances = {"distance_p": found.distance_p, "shift_p": found.shift_p, "low_p": found.low_p}
        rounded = {key: round(value, 4) for key, value in (measured | chances).items()}
        header = {"candidate": name, "answers": len(candidate), "passed": found.passed, "seconds": round(seconds)}
        print(json.dumps(header | rounded), flush=True)
        if args.pictures:
            draw(found, str(args.pictures / f"{name}.png"), ("reference", name))


if __name__ == "__main__":
    main()

"""How many documents does DistilRoBERTa score in a second of a core, against `transformers` on the same core?

The model has DistilRoBERTa's shape (82M) and random weights; the documents are pieces of the standard library's help
with log-normal lengths, as pages have: most of them shorter than the window of 512 tokens. Both sides tokenize with the
same `tokenizer.json` and agree on the scores. `transformers` is measured twice: on batches as documents come, each
padded to its longest, which is how its pipelines do it, and on batches sorted by length, the best it can be given.

Seconds are those of the process on its core, so that a busy machine matters less; compiling is not counted. Prints one
JSON line.

    taskset -c 0 python -m benchmarks.curation_roberta [--documents 64] [--dtype float32]
"""

import argparse
import json
import pathlib
import tempfile

import jax
import numpy as np
import tokenizers
import torch
import transformers

from benchmarks.processor_time import best_of
from llama3_jax.core.params import init_params
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.stdlib_corpus import standard_library
from llama3_jax.data.windows import WindowConfig, WindowEncoder
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.roberta import Roberta, RobertaConfig, encoder_layout
from llama3_jax.train.program import resolve_compute
from llama3_jax.train.scorer import Scorer
from llama3_jax.weights.roberta import write_roberta

LENGTH = 512


def make_documents(num: int, median_words: int) -> list[str]:
    """Pieces of the help texts, lengths log-normal with a deviation of 0.9."""
    words = " ".join(document.text for document in standard_library() if document.id.startswith("help/")).split(" ")
    rng = np.random.default_rng(0)
    lengths = np.maximum(5, rng.lognormal(np.log(median_words), 0.9, num)).astype(int)
    starts = rng.integers(0, len(words) - lengths.max(), num)
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def train_tokenizer(path: pathlib.Path, texts: list[str]) -> None:
    """A byte-level BPE with RoBERTa's special tokens."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        ("</s>", 2), ("<s>", 0)
    )
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=8000, special_tokens=special, initial_alphabet=byte_level.alphabet(), show_progress=False
        ),
    )
    tokenizer.save(str(path))


def rate_of(score, texts: list[str], repeats: int) -> tuple[float, np.ndarray]:
    """Documents per second of processor time of `score(texts)`, the best of several."""
    seconds, scores = best_of(repeats, lambda: score(texts))
    return len(texts) / seconds, scores


def theirs(folder: str, dtype: str, batch_rows: int, by_length: bool):
    """`score(texts)` by transformers."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    file = f"{folder}/tokenizer.json"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=file, pad_token="<pad>")

    def score(texts):
        order = np.argsort([len(text) for text in texts], kind="stable") if by_length else np.arange(len(texts))
        scores = np.zeros(len(texts), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), batch_rows):
                here = order[start : start + batch_rows]
                batch = [texts[place] for place in here]
                inputs = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=LENGTH)
                inputs.pop("token_type_ids", None)
                scores[here] = model(**inputs).logits[:, 0].float().numpy()
        return scores

    return score


def main(args: argparse.Namespace) -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    texts = make_documents(args.documents, args.median_words)
    config = RobertaConfig()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        train_tokenizer(path, texts)
        exact = Roberta(config, ComputeConfig(), encoder_layout(mesh))
        params = init_params(exact, 0, mesh, exact.layout)
        write_roberta(f"{folder}/hf", config, jax.device_get(params), tokenizer=path)
        encoder = WindowEncoder(path, WindowConfig(length=LENGTH))
        lengths = [len(window) for window in encoder.encode(texts)[0]]
        compute = ComputeConfig(
            param_dtype=args.dtype, compute_dtype=args.dtype, attention=args.attention, remat="none"
        )
        module = Roberta(config, resolve_compute(compute, mesh), exact.layout)
        params = jax.tree.map(lambda x: x.astype(args.dtype), params)
        scorer = Scorer(module, params, encoder, mesh, args.batch_tokens)
        scorer(texts)  # compiles
        ours, our_scores = rate_of(scorer, texts, args.repeats)
        rates, differences = {}, []
        for name, by_length in (("as they come", False), ("sorted by length", True)):
            score = theirs(f"{folder}/hf", args.dtype, args.batch_rows, by_length)
            score(texts[:1])
            rates[name], their_scores = rate_of(score, texts, args.repeats)
            differences.append(float(np.abs(our_scores - their_scores).max()))
    result = {
        "benchmark": "curation_roberta",
        "dtype": args.dtype,
        "attention": module.compute.attention,
        "documents": len(texts),
        "mean_tokens": round(float(np.mean(lengths)), 1),
        "documents_per_core_second": round(ours, 2),
        "tokens_per_core_second": round(ours * float(np.mean(lengths))),
        "transformers_documents_per_core_second": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": {name: round(ours / rate, 2) for name, rate in rates.items()},
        "largest_difference": max(differences),
        "jax": jax.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--median_words", type=int, default=100)
    parser.add_argument("--batch_rows", type=int, default=16, help="of transformers")
    parser.add_argument("--batch_tokens", type=int, default=None, help="of ours")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())

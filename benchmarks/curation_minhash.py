"""How fast are MinHash signatures, next to datatrove and datasketch on the same text in the same run?

    python -m benchmarks.curation_minhash [--megabytes 32] [--datatrove /path/to/python/with/datatrove]

All make 112 values for the word 5-grams of documents of the standard library's text, on one core; the others see as
much of it as takes a few seconds. datatrove needs an environment of its own, with spaCy; it is timed with its tokenizer
for white space, and (`datatrove_split`) with `str.split` put in its place. Without that environment it is left out, and
so is datasketch where it is not installed. Times are processor time, best of three rounds. `agreement` is the error of
estimated similarities of near-duplicates, and what theory says it is. Prints one JSON line.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.curation_corpus import documents
from benchmarks.processor_time import best_of
from llama3_jax.curation import minhash
from llama3_jax.curation.text_batch import TextBatch

CONFIG = minhash.MinHashConfig()
ROUNDS = 3
# Runs where datatrove is installed: reads texts as JSON, prints the best seconds with either tokenizer.
DATATROVE = """
import json, sys, time
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.word_tokenizers import WhitespaceTokenizer

class Split:
    word_tokenize = staticmethod(str.split)

step = MinhashDedupSignature.__new__(MinhashDedupSignature)
step.config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
step.num_hashes, step._parameters = 112, None
step._hash_func = create_hash_func(step.config.hash_config)
texts = json.load(sys.stdin)
best = []
for step.word_tokenizer in (WhitespaceTokenizer(), Split()):
    step.get_shingles("loads what is loaded late")
    seconds = []
    for _ in range(int(sys.argv[1])):
        began = time.process_time()
        for text in texts:
            shingles = step.get_shingles(text)
            if shingles.size:
                step.get_signature(shingles)
        seconds.append(time.process_time() - began)
    best.append(min(seconds))
print(json.dumps(best))
"""


def rate(num_bytes: int, work: Callable[[], object]) -> float:
    """MB/s of the best of a few rounds."""
    return num_bytes / best_of(ROUNDS, work)[0] / 1e6


def datasketch_rate(texts: list[str]) -> float | None:
    try:
        import datasketch  # pyright: ignore[reportMissingImports]
        import xxhash  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    words = re.compile(r"\w+")

    def sign():
        for text in texts:
            found = words.findall(text.lower())
            grams = [" ".join(found[i : i + 5]).encode() for i in range(max(len(found) - 4, 1))]
            datasketch.MinHash(num_perm=112, hashfunc=xxhash.xxh32_intdigest).update_batch(grams)

    return rate(sum(len(text.encode()) for text in texts), sign)


def datatrove_rates(python: str | None, texts: list[str]) -> dict[str, float]:
    if python is None:
        return {}
    command = [python, "-c", DATATROVE, str(ROUNDS)]
    done = subprocess.run(command, input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True, cwd="/")
    num_bytes = sum(len(text.encode()) for text in texts)
    rates = [num_bytes / seconds / 1e6 for seconds in json.loads(done.stdout.splitlines()[-1])]
    return dict(zip(("datatrove", "datatrove_split"), rates, strict=True))


def agreement(texts: list[str]) -> dict[str, float]:
    """Errors of the estimated similarity over near-duplicates: each text against itself with words left out."""
    rng = np.random.default_rng(0)
    pairs = []
    for text in texts:
        words = np.array(text.split())
        pairs += [text, " ".join(words[rng.random(len(words)) > rng.uniform(0, 0.2)])]
    batch = TextBatch.of(pairs)
    values = minhash.signatures(batch, CONFIG)
    places = np.arange(len(pairs)).reshape(-1, 2)
    exact = minhash.exact_jaccard(minhash.shingles(batch, CONFIG), places)
    error = (values[::2] == values[1::2]).mean(axis=1) - exact
    theory = np.sqrt((exact * (1 - exact)).mean() / values.shape[1])
    return {"bias": float(error.mean()), "rmse": float(np.sqrt((error**2).mean())), "rmse_in_theory": float(theory)}


def main(argv: list[str]):
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=32)
    parser.add_argument("--datatrove")
    flags = parser.parse_args(argv)
    texts = documents(int(flags.megabytes * 1e6))
    batch = TextBatch.of(texts)
    few = texts[: len(texts) // 8]
    rates = {
        "ours": rate(len(batch.data), lambda: minhash.signatures(TextBatch.of(texts), CONFIG)),
        "datasketch": datasketch_rate(few),
        **datatrove_rates(flags.datatrove, few[: len(few) // 2]),
    }
    keys = minhash.band_keys(minhash.signatures(batch, CONFIG), CONFIG).reshape(-1)
    row = {
        "documents": len(texts),
        "megabytes": len(batch.data) / 1e6,
        "megabytes_per_second": rates,
        "ratio": {name: rates["ours"] / other for name, other in rates.items() if name != "ours" and other},
        "million_keys_sorted_per_second": rate(len(keys), lambda: np.argsort(keys)),
        "agreement": agreement(few[:500]),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])

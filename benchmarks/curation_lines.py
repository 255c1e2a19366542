"""How fast are repeated lines found, next to plain Python on the same text in the same run?

    python -m benchmarks.curation_lines [--megabytes 64]

One core, from texts to the lines that go (more than six times, first six kept): keys, order, counts and ranks.
`counter` is collections.Counter over lines as they are, which is the least that Python can do; `ccnet` is the rule that
ccNet applies to a line before it hashes it (strip, lower case, digits, punctuation; SHA-1 to 64 bits), and finds the
same lines, which is checked. Times are processor time, best of three rounds. Prints one JSON line.
"""

import argparse
import collections
import hashlib
import json
import re
import resource
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.curation_corpus import documents
from benchmarks.processor_time import best_of
from llama3_jax.curation import lines
from llama3_jax.curation.text_batch import TextBatch

ROUNDS = 3
RULE = lines.LineRule()
DIGIT = re.compile(r"\d")
REMOVED = re.compile(r"[\x00-\x1f\x7f-\x9f，。、„”“«»」「《》´∶：？！（）；–—．～’…━〈〉【】％►]")


def rate(num_bytes: int, work: Callable[[], int]) -> tuple[float, int]:
    """MB/s of the best of a few rounds, and what the work returned."""
    seconds, result = best_of(ROUNDS, work)
    return num_bytes / seconds / 1e6, result


def ours(texts: list[str]) -> int:
    keys = lines.line_keys(TextBatch.of(texts), lines.LineConfig())
    ordered = keys.hash[np.lexsort((keys.start, keys.row, keys.hash))]  # as `repeated_lines` has them
    return sum(int(RULE.drops(count, rank).sum()) for count, rank in lines.count_and_rank(lambda: [ordered]))


def counter(texts: list[str]) -> int:
    counts = collections.Counter()
    for text in texts:
        counts.update(text.split("\n"))
    return sum(max(count - RULE.max_count, 0) for count in counts.values())


def ccnet(texts: list[str]) -> int:
    counts = collections.Counter()
    for text in texts:
        for line in text.split("\n"):
            line = REMOVED.sub("", DIGIT.sub("0", line.strip().lower()))
            if line:
                counts[hashlib.sha1(line.encode()).digest()[:8]] += 1
    return sum(max(count - RULE.max_count, 0) for count in counts.values())


def main(argv: list[str]):
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=64)
    flags = parser.parse_args(argv)
    texts = documents(int(flags.megabytes * 1e6))
    # ccNet's rule and ours differ on digits and long capitals outside ASCII, which are not what is measured.
    texts = [text for text in texts if text.isascii()]
    num_bytes = sum(map(len, texts))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, dropped = rate(num_bytes, lambda: ours(texts))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    few = texts[: len(texts) // 8]
    num_few = sum(map(len, few))
    rates = {"ours": found, "counter": rate(num_bytes, lambda: counter(texts))[0]}
    rates["ccnet"], expected = rate(num_few, lambda: ccnet(few))
    if ours(few) != expected:
        raise AssertionError(f"{ours(few)} lines go, but {expected} by the plain rule")
    row = {
        "megabytes": num_bytes / 1e6,
        "million_lines": sum(text.count("\n") for text in texts) / 1e6,
        "lines_dropped": dropped,
        "megabytes_per_second": rates,
        "ratio": {name: found / other for name, other in rates.items() if name != "ours"},
        "megabytes_of_memory": grown / 1024,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])

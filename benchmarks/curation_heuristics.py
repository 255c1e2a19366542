"""How fast are the heuristics, together and each alone, next to datatrove's on the same text in the same run?

    python -m benchmarks.curation_heuristics [--megabytes 16] [--datatrove /path/to/python/with/datatrove]
    python -m benchmarks.curation_heuristics --agreement [--megabytes 12]

The text is the standard library's sources and documentation in documents of some kilobytes. Rates are MB/s of UTF-8 by
processor time on one core, best of three rounds; one alone also pays for the tables that it shares with the others.
datatrove needs an environment of its own, with spaCy; it runs its repetition, quality and C4 filters on a part of the
text, as they are (`datatrove`: a document is done with at its first failure), with limits that nothing exceeds
(`datatrove_all`: so every score is computed, as here), and so with `str.split` for its words (`datatrove_split`).
Without that environment it is left out. `rejected` is the share of documents that fail by each definition of
repetition, and `agree` the share on which two definitions say the same; with --agreement only these are measured.
Prints one JSON line.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.curation_corpus import documents
from benchmarks.processor_time import best_of
from llama3_jax.curation.heuristics.c4 import C4Config, c4_scores
from llama3_jax.curation.heuristics.code import code_scores
from llama3_jax.curation.heuristics.formulas import formula_scores
from llama3_jax.curation.heuristics.gopher import dirty_word_scores, gopher_scores
from llama3_jax.curation.heuristics.lists import built_in, dirty_words
from llama3_jax.curation.heuristics.page_kinds import page_kind_scores
from llama3_jax.curation.heuristics.paragraphs import repetition_scores
from llama3_jax.curation.heuristics.rae_variants import VARIANTS
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.repetition import RepetitionConfig
from llama3_jax.curation.heuristics.rules import failed
from llama3_jax.curation.heuristics.score import Heuristics, HeuristicsConfig
from llama3_jax.curation.heuristics.thresholds import rules_for
from llama3_jax.curation.lexicon import Lexicon
from llama3_jax.curation.text_batch import TextBatch

ROUNDS = 3
PART_BYTES = HeuristicsConfig().part_bytes
# Runs where datatrove is installed: reads texts as JSON, prints the best seconds of each way to run its filters.
DATATROVE = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter

texts = json.load(sys.stdin)
FAR = 1e9
every = [
    GopherRepetitionFilter(FAR, FAR, FAR, FAR, ((2, FAR), (3, FAR), (4, FAR)), tuple((n, FAR) for n in range(5, 11))),
    GopherQualityFilter(-1, 10**9, -1, FAR, FAR, FAR, FAR, -FAR, -1),
    C4QualityFilter(min_num_sentences=0, filter_lorem_ipsum=False, filter_curly_bracket=False),
]

def seconds(filters, stop):
    best = []
    for _ in range(int(sys.argv[1])):
        began = time.process_time()
        for text in texts:
            for step in filters:
                found = step.filter(Document(text=text, id=""))
                if stop and found is not True:
                    break
        best.append(time.process_time() - began)
    return min(best)

seconds(every, False) if len(texts) < 20 else None
usual = seconds([GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter()], True)
full = seconds(every, False)
for module in (gopher_quality_filter, gopher_repetition_filter):
    module.split_into_words = lambda text, language: text.split()
print(json.dumps([usual, full, seconds(every, False)]))
"""


def rate(num_bytes: int, work: Callable[[], object]) -> float:
    """MB/s of the best of a few rounds."""
    return num_bytes / best_of(ROUNDS, work)[0] / 1e6


def each_alone(texts: list[str], lexicon: Lexicon) -> dict[str, float]:
    batch = TextBatch.of(texts)
    groups: dict[str, Callable[[Reading], object]] = {
        "gopher": gopher_scores,
        "repetition": lambda reading: repetition_scores(reading, RepetitionConfig()),
        "c4": lambda reading: c4_scores(reading, C4Config()),
        "dirty_words": dirty_word_scores,
        "code": code_scores,
        "formulas": formula_scores,
        "page_kinds": page_kind_scores,
    }

    def run(score: Callable[[Reading], object]):
        for _, part in batch.parts(PART_BYTES):
            score(Reading(part, ["en"] * len(part), lexicon))

    return {name: rate(len(batch.data), lambda score=score: run(score)) for name, score in groups.items()}


def datatrove_rates(python: str | None, texts: list[str]) -> dict[str, float]:
    if python is None:
        return {}
    command = [python, "-c", DATATROVE, str(ROUNDS)]
    done = subprocess.run(command, input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True, cwd="/")
    num_bytes = sum(len(text.encode()) for text in texts)
    rates = [num_bytes / seconds / 1e6 for seconds in json.loads(done.stdout.splitlines()[-1])]
    return dict(zip(("datatrove", "datatrove_all", "datatrove_split"), rates, strict=True))


def agreement(texts: list[str], lexicon: Lexicon) -> dict[str, dict[str, float]]:
    """Which documents the four definitions of repetition reject, with the paper's bounds."""
    rejected = {}
    for variant in VARIANTS:
        scores = repetition_scores(
            Reading(TextBatch.of(texts), ["en"] * len(texts), lexicon), RepetitionConfig(variant=variant)
        )
        rejected[variant] = failed(scores, [rule for rule in rules_for("en") if rule.score in scores]).first >= 0
    agree = {f"{a}/{b}": float(np.mean(rejected[a] == rejected[b])) for a, b in itertools.combinations(rejected, 2)}
    return {"rejected": {name: float(found.mean()) for name, found in rejected.items()}, "agree": agree}


def speed(texts: list[str], lexicon: Lexicon, datatrove: str | None) -> dict[str, dict]:
    """MB/s of all heuristics and of each, of datatrove where it is given, and how many times faster ours are."""
    languages = ["en"] * len(texts)
    batch = TextBatch.of(texts)
    config = HeuristicsConfig()
    counts = Heuristics(config).count(batch, languages)
    everything = Heuristics(config, dirty_words=[*dirty_words()], corpus=counts)
    rates = {
        "all": rate(len(batch.data), lambda: everything.scores(TextBatch.of(texts), languages)),
        "first_pass": rate(len(batch.data), lambda: Heuristics(config).count(TextBatch.of(texts), languages)),
        "each": each_alone(texts, lexicon),
        **datatrove_rates(datatrove, texts[: max(len(texts) // 20, 1)]),
    }
    ratio = {name: rates["all"] / rates[name] for name in rates if name.startswith("datatrove")}
    return {"megabytes_per_second": rates, "ratio": ratio}


def main(argv: list[str]):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--datatrove")
    parser.add_argument("--agreement", action="store_true")
    flags = parser.parse_args(argv)
    texts = documents(int(flags.megabytes * 1e6))
    batch = TextBatch.of(texts)
    lexicon = Lexicon([*built_in(), *dirty_words()])
    row = {
        "benchmark": "curation_heuristics",
        "documents": len(texts),
        "megabytes": len(batch.data) / 1e6,
        **agreement(texts, lexicon),
    }
    if not flags.agreement:
        row |= speed(texts, lexicon, flags.datatrove)
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])

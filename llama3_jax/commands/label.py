"""`llama3 label`: a chat model's verdicts on documents, to train a classifier with."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import flags

from llama3_jax.curation.given import text_id
from llama3_jax.curation.labelling.judge import Judge, JudgeConfig
from llama3_jax.curation.labelling.labels import LabelFile
from llama3_jax.curation.labelling.loop import LoopConfig, Page, estimate_cost, label_pages
from llama3_jax.curation.labelling.rubrics import KINDS, POINTS, RUBRICS, Question, prompt_hash
from llama3_jax.curation.labelling.sampling import choose
from llama3_jax.data.text import read_documents

SUMMARY = "ask a chat model which documents are good"
MANUAL = """
Shows documents of --input (.txt, .md, .py, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, folders, fsspec URLs; comma
separated) to the model at --url, any endpoint with OpenAI's chat API (`llama3 serve` is one), and writes its verdicts
to --output as JSON lines: id (a hash of the text), label, the answer, or the reason why there is no label. --variant
says what is looked for: quality, code (code and prose interleaved) or reasoning (mathematics and STEM). --kind=points
asks for 0 to 5, yes_no for yes or no.

--count takes a sample: equally many documents from each tenth of --scores (JSON lines of id and score, as `llama3
encoder predict` writes them), or of the documents' lengths without it. Which ones, a hash of the document
decides, so more documents asked for later contain those asked for before as far as the tenths stay.

Stop it at any time: the same command goes on where it stopped and asks nothing twice. Errors of the judge are tried
again after growing pauses; documents that got no answer are asked again by the next run. --dry_run prints the cost.
"""
EXAMPLE = """
llama3 label --input=pages.jsonl --variant=reasoning --url=http://127.0.0.1:8000/v1 --model=llama3_1_70b \\
  --count=20000 --output=labels.jsonl
"""


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list("input", None, "files, folders or URLs", flag_values=values, required=True)
    flags.DEFINE_string("field", "text", "JSON key or Parquet column of the text", flag_values=values)
    flags.DEFINE_string("output", None, "JSON lines of labels; may have been begun", flag_values=values, required=True)
    flags.DEFINE_enum("variant", "quality", list(RUBRICS), "what is looked for", flag_values=values)
    flags.DEFINE_enum("kind", POINTS, list(KINDS), "form of the verdict", flag_values=values)
    flags.DEFINE_string("url", None, "the judge's address, ending in /v1", flag_values=values, required=True)
    flags.DEFINE_string("model", None, "the judge's name there", flag_values=values, required=True)
    flags.DEFINE_string("api_key_file", None, "file with the key that the judge asks for", flag_values=values)
    flags.DEFINE_integer("count", None, "documents to ask about (default: all)", 1, flag_values=values)
    flags.DEFINE_string("scores", None, "JSON lines of id and score, by which the sample is spread", flag_values=values)
    flags.DEFINE_string("salt", "", "another one draws another sample", flag_values=values)
    flags.DEFINE_integer("max_chars", Question().max_chars, "characters of a document shown", 1, flag_values=values)
    flags.DEFINE_integer("max_tokens", 256, "longest answer", 1, flag_values=values)
    flags.DEFINE_float("temperature", 0.0, "0 is greedy", 0, flag_values=values)
    flags.DEFINE_integer("concurrency", 16, "questions under way", 1, flag_values=values)
    flags.DEFINE_float("timeout_seconds", 120.0, "time for one answer", 0, flag_values=values)
    flags.DEFINE_integer("retries", 6, "tries after the first", 0, flag_values=values)
    flags.DEFINE_list("dollars_per_million", None, "prices of prompt and answer tokens, as 0.5,1.5", flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "print the cost, and ask nothing", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    question = Question(variant=options["variant"], kind=options["kind"], max_chars=options["max_chars"])
    judge = JudgeConfig(
        url=options["url"],
        model=options["model"],
        api_key=_read_key(options["api_key_file"]),
        **{name: options[name] for name in ("max_tokens", "temperature", "timeout_seconds", "retries")},
    )
    pages = list(_pages(options))
    if options["count"] is not None:
        pages = _sample(pages, options)
    prices = _prices(options["dollars_per_million"])
    if options["dry_run"] and not os.path.exists(options["output"]):
        print(estimate_cost(pages, question, judge.max_tokens, prices))
        return 0
    with LabelFile(options["output"]) as file:
        prompt = prompt_hash(question, judge.sampling)
        missing = [page for page in pages if (page.id, prompt) not in file]
        if len(missing) < len(pages):
            print(f"{options['output']}: {len(pages) - len(missing):,} of {len(pages):,} documents have their answer")
        print(estimate_cost(missing, question, judge.max_tokens, prices), flush=True)
        if options["dry_run"]:
            return 0
        loop = LoopConfig(concurrency=options["concurrency"])
        report = label_pages(pages, Judge(judge), question, judge.sampling, file, loop)
    print("\n".join(report.lines))
    return 0


def page_id(text: str) -> str:
    """The id of a document of which nothing but the text is known, hexadecimal."""
    return text_id(text).hex()


def _pages(options: Mapping[str, Any]) -> Iterable[Page]:
    """The documents, each text once."""
    seen: set[str] = set()
    for document in read_documents(options["input"], field=options["field"], errors="replace"):
        identity = page_id(document.text)
        if identity not in seen:
            seen.add(identity)
            yield Page(identity, document.text)


def _sample(pages: list[Page], options: Mapping[str, Any]) -> list[Page]:
    if options["scores"] is None:
        scores = np.array([len(page.text) for page in pages], np.float64)
    else:
        known = _read_scores(options["scores"])
        scores = np.array([known.get(page.id, np.nan) for page in pages])
    chosen = choose([bytes.fromhex(page.id) for page in pages], scores, options["count"], salt=options["salt"])
    return [pages[index] for index in chosen]


def _read_scores(path: str) -> dict[str, float]:
    scores = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                scores[record["id"]] = float(record["score"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is no id with a score ({error})") from error
    return scores


def _read_key(path: str | None) -> str | None:
    return None if path is None else pathlib.Path(path).read_text(encoding="utf-8").strip()


def _prices(given: list[str] | None) -> tuple[float, float] | None:
    if not given:
        return None
    try:
        prompt, answer = map(float, given)
    except ValueError as error:
        raise ValueError(f"--dollars_per_million takes two numbers, as 0.5,1.5, not {','.join(given)}") from error
    return prompt, answer

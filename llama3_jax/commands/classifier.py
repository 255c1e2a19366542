"""`llama3 classifier`: trains a linear classifier of texts, for `llama3 curate`."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from llama3_jax.curation.classify.cited_urls import CitedUrls, build_cited_urls
from llama3_jax.curation.classify.examples import Examples, Fields, labelled_examples, read_rows, reference_examples
from llama3_jax.curation.classify.externallinks import read_external_links
from llama3_jax.curation.classify.held_out import measure
from llama3_jax.curation.classify.language import LANGUAGE_TRAINING
from llama3_jax.curation.classify.linear import LinearConfig, train
from llama3_jax.curation.classify.wiki_references import MATCHES, ReferenceConfig

SUMMARY = "train a classifier of texts: quality by Wikipedia's citations, kinds of knowledge, languages"
MANUAL = """
Learns from the documents of --input (.jsonl, .jsonl.gz, .jsonl.zst, .parquet; folders and fsspec URLs) and writes a
model (.npz) for config.models, config.knowledge or config.language_model of `llama3 curate`. The same documents make
the same model in any order.

With --label_field each document says what it is. With --cited it is told by Wikipedia: the documents whose URL is
linked to in a dump of the table `externallinks` (enwiki-...-externallinks.sql.gz from dumps.wikimedia.org, or several)
are "cited", as many others are "other", and no host gives more than --max_per_host to either. The set of cited URLs is
kept in --cited_set, which is used again if it is there.

The pages of some hosts are held out: accuracy and area under the curve on them are printed.
"""
EXAMPLE = """
llama3 classifier --input=runs/curate/text --cited=externallinks.sql.gz --cited_set=runs/cited --output=runs/cited.npz
llama3 classifier --input=knowledge.jsonl --label_field=category --output=runs/knowledge.npz
"""
TRAINING = {"words": LinearConfig(), "characters": LANGUAGE_TRAINING}


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list("input", None, "files, folders or URLs of documents", flag_values=values, required=True)
    flags.DEFINE_string("output", None, "model to write, .npz", flag_values=values, required=True)
    flags.DEFINE_string("label_field", None, "JSON key or column of the label", flag_values=values)
    flags.DEFINE_list("cited", None, "dumps of external links", flag_values=values)
    flags.DEFINE_string("cited_set", None, "folder for the set of cited URLs", flag_values=values)
    flags.DEFINE_enum("match", "url", MATCHES, "whether a page or its whole host is to be cited", flag_values=values)
    flags.DEFINE_integer("max_per_host", 1, "examples of one host and label", flag_values=values)
    flags.DEFINE_enum("kind", "words", list(TRAINING), "n-grams: characters tell languages", flag_values=values)
    flags.DEFINE_integer("epochs", None, "passes over the examples", flag_values=values)
    flags.DEFINE_float("held_out", 0.1, "share of the hosts to test on", flag_values=values)
    flags.DEFINE_string("field", "text", "JSON key or column of the text", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    output = options["output"]
    if not output.endswith(".npz"):
        raise ValueError(f"output: {output} does not end in .npz")
    if (options["label_field"] is None) == (options["cited"] is None and options["cited_set"] is None):
        raise ValueError("give either --label_field, or --cited with --cited_set")
    if not 0 <= options["held_out"] < 1:
        raise ValueError(f"held_out must be in [0, 1), not {options['held_out']}")
    config = TRAINING[options["kind"]]
    if options["epochs"] is not None:
        config = dataclasses.replace(config, epochs=options["epochs"])
    examples = _examples(options)
    known, held_out = (_part(examples, examples.is_held_out == split) for split in (False, True))
    model = train(*known, config)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    model.save(output)
    print(f"{output}: {len(known[0]):,} documents, labels {', '.join(model.labels)}")
    found = {name: value for name, value in measure(model, *held_out).items() if not math.isnan(value)}
    print(f"held out, {len(held_out[0]):,} documents: " + ", ".join(f"{n} {v:.3f}" for n, v in found.items()))
    return 0


def _examples(options: Mapping[str, Any]) -> Examples:
    fields = Fields(text=options["field"], label=options["label_field"])
    read = lambda: read_rows(options["input"], fields)
    if options["label_field"] is not None:
        return labelled_examples(read(), held_out_share=options["held_out"])
    config = ReferenceConfig(
        match=options["match"], max_per_host=options["max_per_host"], held_out_share=options["held_out"]
    )
    return reference_examples(read, _cited(options["cited"], options["cited_set"]), config)


def _cited(dumps: list[str] | None, folder: str | None) -> CitedUrls:
    if folder is None:
        raise ValueError("cited_set: name a folder for the set of cited URLs")
    if Path(folder).exists() or not dumps:
        return CitedUrls(folder)
    found = build_cited_urls(itertools.chain.from_iterable(map(read_external_links, dumps)), folder)
    print(f"{folder}: {found.counts['urls']:,} URLs of {found.counts['hosts']:,} hosts are cited")
    return found


def _part(examples: Examples, chosen: np.ndarray) -> tuple[list[str], list[str]]:
    rows = np.flatnonzero(chosen).tolist()
    return [examples.texts[row] for row in rows], [examples.labels[row] for row in rows]

"""`llama3 curate`: raw web pages to training text."""

import json
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.core.config import freeze, to_dict
from llama3_jax.core.paths import path_of
from llama3_jax.curation.explain import explain
from llama3_jax.curation.curation_config import CurationConfig
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.report import render
from llama3_jax.curation.runner import run_steps
from llama3_jax.curation.steps import DOCUMENTS
from llama3_jax.curation.summary import summarise
from llama3_jax.curation.tables import write_whole

SUMMARY = "turn web pages into training text: extract, deduplicate, filter, and say why"
MANUAL = """
Reads pages (.warc, .warc.gz, .html, .jsonl, .parquet, .txt; folders and URLs of them), extracts their text, removes
duplicates of URLs, documents and lines, computes scores of every document, and keeps those that no rule drops. Writes
OUTPUT/text (Parquet, by category), OUTPUT/report.html and OUTPUT/data_card.json.

The result does not depend on how the pages lie in files, on config.partitions, or on how many processes or machines
work. What is computed stays in config.workdir: a run that was cut short goes on, and one with other rules computes only
what is new. On several machines with one file system, start the same command on each with
--config.runner.num_shards=N --config.runner.shard=0 (1, 2, ...).

--explain=ID prints everything that is known of one document, and why it was kept or dropped.
"""
EXAMPLE = """
llama3 curate --config=configs/curate_web.py --config.sources.crawl.paths=crawl/
llama3 curate --config=configs/curate_web.py --config.sources.crawl.paths=crawl/ --explain=0123456789abcdef0123456789abcdef
"""
TAKES_CONFIG = True


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("explain", None, "id of a document to explain, after a run", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    config = freeze(CurationConfig, options["config"])
    steps = make_steps(config)
    if options["explain"]:
        print(explain(steps, config.workdir, options["explain"]))
        return 0
    run_steps(list(steps.values()), config.workdir, config.runner)
    total = steps["publish"].results(config.workdir).total()
    output = config.output.rstrip("/")
    page = render(summarise(steps, config))
    card = {
        "fingerprint": steps["publish"].fingerprint,
        "kept": total,
        "steps": {name: step.results(config.workdir).total() for name, step in steps.items()},
        "settings": to_dict(config),
    }
    write_whole(f"{output}/report.html", lambda file: file.write(page.encode()))
    write_whole(
        f"{output}/data_card.json", lambda file: file.write(json.dumps(card, indent=1, sort_keys=True).encode())
    )
    print(f"{path_of(output)}: {total[DOCUMENTS]:,} documents, {total['bytes'] / 1e6:,.1f} MB of text; see report.html")
    return 0

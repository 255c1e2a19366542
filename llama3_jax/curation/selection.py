"""What is decided when all documents are known: the best of each language, and less of what there is too much of.

The paper ranks documents within each language by quality, and downsamples kinds of knowledge that the web is too rich
in (Llama 3, 3.1). Both choose among the documents that no rule drops, first by rank, then by kind.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.classify.knowledge import category_tokens, downsample, keep_rates
from llama3_jax.curation.classify.ranking import Cut, Ranked, RankingConfig, find_cuts, is_kept, rank_keys
from llama3_jax.curation.features import column, read_score
from llama3_jax.curation.judging import count_reasons
from llama3_jax.curation.steps import Counts, Results, Task

RANK, KNOWLEDGE = "rank", "knowledge"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """`rank_by`: the score that orders documents, None for no ranking. `shares`: category of knowledge -> the share
    of characters that it may have; what is not named shares the rest.
    """

    rank_by: str | None = None
    ranking: RankingConfig = dataclasses.field(default_factory=RankingConfig)
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to select."""
        return self.rank_by is not None or bool(self.shares)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a selection depends on."""

    config: SelectionConfig
    features: tuple[str, ...]


def write_limits(tasks: Sequence[Task]) -> list[Counts]:
    """One task that sees every document's scores: where each language is cut, and what part of each kind stays."""
    (task,) = tasks
    config: SelectionConfig = task.settings.config
    verdicts = task.inputs["verdicts"]
    count = verdicts.num_tasks
    read = lambda: (
        _ranked(task.inputs, index, task.settings, verdicts.rows(index, "verdicts")) for index in range(count)
    )
    cuts = find_cuts(read, config.ranking) if config.rank_by else {}
    chars: dict[str, int] = {}
    for index in range(count if config.shares else 0):
        table = verdicts.rows(index, "verdicts")
        stays = _standing(task.inputs, index, task.settings, table, cuts)
        kinds = read_score(task.inputs, task.settings.features, index, "knowledge")
        for name, number in category_tokens(kinds[stays], column(table, "chars")[stays]).items():
            chars[name] = chars.get(name, 0) + number
    rates = keep_rates(chars, config.shares) if config.shares else {}
    text = json.dumps({"cuts": {name: list(cut) for name, cut in cuts.items()}, "rates": rates})
    task.write("limits", pa.table({"limits": [text]}))
    return [{f"{kind}.chars": number for kind, number in sorted(chars.items())}]


def write_selected(tasks: Sequence[Task]) -> list[Counts]:
    """The verdicts of a partition with those that selection adds."""
    (task,) = tasks
    config: SelectionConfig = task.settings.config
    limits = json.loads(task.inputs["limits"].rows(0, "limits")["limits"][0].as_py())
    cuts = {name: Cut(tuple(border), rest, count) for name, (border, rest, count) in limits["cuts"].items()}
    table = task.inputs["verdicts"].rows(task.index, "verdicts")
    why = column(table, "reason").astype("U64")
    before = why == ""
    stays = _standing(task.inputs, task.index, task.settings, table, cuts)
    why[before & ~stays] = RANK
    if config.shares:
        rows, ids = np.flatnonzero(stays), table["id"].to_pylist()
        kinds = read_score(task.inputs, task.settings.features, task.index, "knowledge")
        drawn = downsample(kinds[rows], [ids[row] for row in rows], limits["rates"], seed=config.seed)
        why[rows[~drawn]] = KNOWLEDGE
    place = table.column_names.index("reason")
    task.write("verdicts", table.set_column(place, "reason", pa.array(why.tolist())))
    return [count_reasons(why[before])]


def _standing(
    inputs: Mapping[str, Results], index: int, settings: Selection, table: pa.Table, cuts: Mapping[str, Cut]
) -> np.ndarray:
    """Which documents of a partition, given their verdicts, rules and ranking leave: bool [D]."""
    stays = column(table, "reason") == ""
    if settings.config.rank_by:
        stays[stays] = is_kept(_ranked(inputs, index, settings, table), cuts)
    return stays


def _ranked(inputs: Mapping[str, Results], index: int, settings: Selection, table: pa.Table) -> Ranked:
    """The documents of a partition that no rule drops, ready to be ranked."""
    rows = np.flatnonzero(column(table, "reason") == "")
    score = read_score(inputs, settings.features, index, str(settings.config.rank_by))
    ids = table["id"].to_pylist()
    languages = column(table, "language").astype(str)[rows].tolist()
    return rank_keys(score[rows], [ids[row] for row in rows], languages, settings.config.ranking)

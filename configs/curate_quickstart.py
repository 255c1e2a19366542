"""Curation of the quickstart's pages: the standard library's documentation as HTML, one host, much of it alike.

    llama3 curate --config=configs/curate_quickstart.py

Documentation of code repeats signatures and headings and has few sentences, so the limits made for prose are wider here
or gone; everything else is the default.
"""

from llama3_jax.core.config import thaw
from llama3_jax.curation.curation_config import CurationConfig, SourceEntry
from llama3_jax.curation.heuristics.thresholds import DEFAULTS
from llama3_jax.curation.rules_config import RulesConfig

FOLDER = "runs/quickstart"
REPEATS = tuple(name for name in DEFAULTS if name.startswith(("duplicate_", "top_")))


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/curate_quickstart.py has no variant {variant!r}")
    return thaw(
        CurationConfig(
            workdir=f"{FOLDER}/curation",
            output=f"{FOLDER}/documentation",
            sources={"documentation": SourceEntry(paths=(f"{FOLDER}/text/pages.warc.gz",))},
            language="en",
            output_files=1,
            partitions=4,
            shuffle_parts=1,
            rules=RulesConfig(without=(*REPEATS, "c4_sentences", "curly_brackets", "bullet_lines")),
        )
    )

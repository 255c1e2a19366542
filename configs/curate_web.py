"""Curation of web pages by the rules of the paper's section 3.1, with every limit at its default.

    llama3 curate --config=configs/curate_web.py --config.sources.crawl.paths=crawl/

The lists that are shipped are samples: give your own with config.dirty_words and config.domains. The variant "scored"
also drops what an encoder trained on a model's labels finds bad (docs/curation.md):

    llama3 curate --config=configs/curate_web.py:scored --config.sources.crawl.paths=crawl/
"""

from llama3_jax.core.config import thaw
from llama3_jax.curation.curation_config import CurationConfig, SourceEntry
from llama3_jax.curation.rules_config import RulesConfig

VARIANTS = ("", "scored")


def get_config(variant: str = ""):
    """The default, and with scores of quality."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/curate_web.py has no variant {variant!r}; there is {VARIANTS[1]}")
    scored = {
        "scores": {"quality": "runs/quality.jsonl"},
        "rules": RulesConfig(bounds={"quality": (3.0, None)}),  # of 5 points
    }
    return thaw(
        CurationConfig(
            workdir="runs/curate/work",
            output="runs/curate_scored" if variant else "runs/curate",
            sources={"crawl": SourceEntry(paths=("crawl",))},
            **(scored if variant else {}),
        )
    )

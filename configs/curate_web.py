"""Curation of web pages by the rules of the paper's section 3.1, with every limit at its default.

    llama3 curate --config=configs/curate_web.py --config.sources.crawl.paths=crawl/

The lists that are shipped are samples: give your own with config.dirty_words and config.domains.
"""

from llama3_jax.core.config import thaw
from llama3_jax.curation.curation_config import CurationConfig, SourceEntry


def get_config(variant: str = ""):
    """The one variant is the default."""
    if variant:
        raise ValueError(f"configs/curate_web.py has no variant {variant!r}")
    return thaw(
        CurationConfig(
            workdir="runs/curate/work", output="runs/curate", sources={"crawl": SourceEntry(paths=("crawl",))}
        )
    )

"""Where raw pages come from: WARC, HTML folders, JSON lines, Parquet and text, local or at fsspec URLs."""

from llama3_jax.curation.sources.files import SourceFile, list_sources, read_source
from llama3_jax.curation.sources.page import CASUALTIES, Casualty, Page, SourceConfig

__all__ = ["CASUALTIES", "Casualty", "Page", "SourceConfig", "SourceFile", "list_sources", "read_source"]

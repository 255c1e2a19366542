"""Text of web pages (Llama 3, 3.1.1)."""

from llama3_jax.curation.extract.config import ExtractConfig, Extracted
from llama3_jax.curation.extract.encoding import decode_html
from llama3_jax.curation.extract.extractor import extract

__all__ = ["ExtractConfig", "Extracted", "decode_html", "extract"]

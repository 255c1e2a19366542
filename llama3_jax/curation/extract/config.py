"""What extraction may spend and how formulas are set off, and what it gives back."""

import dataclasses
from collections.abc import Mapping

Delimiters = tuple[str, str]
REMEMBERED = 1 << 14  # verdicts on tags, on classes and on phrases: the pages of a site, and of a theme, share them


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Budgets of one page, in bytes, tags and levels, never in time: results must not depend on the machine's load.

    Raises ValueError, naming the field, for a budget below one.
    """

    max_bytes: int = 16 << 20  # of HTML in UTF-8; what lies beyond is cut
    max_tags: int = 1_000_000  # "<" signs; what lies beyond is cut
    max_depth: int = 5_000  # of nested blocks; a deeper page is read without its structure
    min_characters: int = 1  # of text; a page with less has none
    inline_math: Delimiters = ("$", "$")
    display_math: Delimiters = ("$$", "$$")
    image_alts: bool = True

    def __post_init__(self):
        for field in ("max_bytes", "max_tags", "max_depth", "min_characters"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extracted:
    """The text of a page.

    `reason` is "" where the whole page was read; "bytes", "tags" or "nesting" where a budget cut it; "empty" or
    "no_text" where there is no text, and then `text` is "".
    """

    text: str
    title: str
    reason: str = ""
    counters: Mapping[str, int] = dataclasses.field(default_factory=dict)

"""Labelled pages: HTML in which `{{+...+}}` marks text of the content, `{{-...-}}` boilerplate, `{{name}}` a paragraph.

A file of pages is named for their kind, and separates them by lines `=== name`. Paragraphs are those of texts.txt; each
is content where it stands. A label's chunk is sought in the extracted text with runs of white space made one space, as
trafilatura's evaluation does.
"""

import dataclasses
import html
import pathlib
import re

_HERE = pathlib.Path(__file__).parent
_KINDS = ("blogs", "news", "forums", "docs", "wikis", "code_hosts", "formulas")
_LABEL = re.compile(r"\{\{([+-])(.*?)[+-]\}\}", re.DOTALL)
_PARAGRAPH = re.compile(r"\{\{(\w+)\}\}")
_BEGINNING = 60  # characters of a paragraph that are its chunk


@dataclasses.dataclass(frozen=True)
class Page:
    """One page, the chunks that belong to its text and those that do not."""

    name: str
    html: str
    content: tuple[str, ...]
    boilerplate: tuple[str, ...]


def load_pages() -> list[Page]:
    """All labelled pages."""
    texts = dict(line.split(" ", 1) for line in (_HERE / "texts.txt").read_text(encoding="utf-8").splitlines())
    found = []
    for kind in _KINDS:
        for part in (_HERE / f"{kind}.txt").read_text(encoding="utf-8").split("=== ")[1:]:
            name, _, source = part.partition("\n")
            found.append(_labelled(f"{kind}/{name.strip()}", source, texts))
    return found


def _labelled(name: str, source: str, texts: dict[str, str]) -> Page:
    chunks: dict[str, list[str]] = {"+": [], "-": []}

    def paragraph(match: re.Match) -> str:
        text = texts[match.group(1)]
        chunks["+"].append(text[:_BEGINNING])
        return text

    def label(match: re.Match) -> str:
        chunks[match.group(1)].append(" ".join(html.unescape(match.group(2)).split()))
        return match.group(2)

    source = _LABEL.sub(label, _PARAGRAPH.sub(paragraph, source))
    return Page(name, source, tuple(chunks["+"]), tuple(chunks["-"]))


@dataclasses.dataclass
class Score:
    """Chunks found and missed, over pages."""

    found: int = 0
    missed: int = 0
    wrong: int = 0

    def add(self, page: Page, text: str) -> list[str]:
        """Counts one page's text; returns the chunks it got wrong, "-" before lacking ones, "+" before boilerplate."""
        text = " ".join(text.split())
        missing = [f"-{chunk}" for chunk in page.content if chunk not in text]
        extra = [f"+{chunk}" for chunk in page.boilerplate if chunk in text]
        self.found += len(page.content) - len(missing)
        self.missed += len(missing)
        self.wrong += len(extra)
        return missing + extra

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall over chunks."""
        return 2 * self.found / (2 * self.found + self.missed + self.wrong)

"""What readers yield: pages as raw bytes, and the records that were lost with the reason; and the budgets they keep."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import NamedTuple

CASUALTIES = {
    "corrupt": "compressed data that does not decode, or fails its checksum",
    "ratio": "a compressed member or payload that grows beyond `max_ratio`",
    "truncated": "the data ends in the middle of a record, member or line",
    "too_large": "a record, payload, line or file beyond `max_bytes`",
    "header": "no record header, or one without what it must say, where a record should begin",
    "length": "a record that does not end where its header says",
    "http": "no HTTP response inside a response record, or an undecodable body",
    "date": "a date that is none",
    "json": "a line that is no JSON object",
    "field": "a row or object whose declared fields are missing or of another type",
    "parquet": "a Parquet file, or a row group of it, that cannot be read",
}
"""Why records get lost, as written in `Casualty.reason`."""


class Page(NamedTuple):
    """One raw document, bytes undecoded."""

    url: str  # "" where the source tells none
    date: datetime.datetime | None  # when it was fetched or published, UTC
    content: bytes
    content_type: str  # "text/html", "application/xhtml+xml" or "text/plain"
    charset: str | None  # what the header, or the form of the source, declares; may be wrong
    metadata: Mapping[str, str]


class Casualty(NamedTuple):
    """A record that was lost."""

    source: str  # the file
    place: str  # where in it: a byte offset of the (decompressed) stream, a line or a row from 1
    reason: str  # a key of CASUALTIES
    detail: str = ""  # for people


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Budgets of all readers, and names of fields for JSON lines and Parquet.

    A record of rows has `html_field`, or else `text_field`; `url_field` and `date_field` may be absent. A file of an
    HTML or text folder has the URL `base_url` + its path below the folder that was given.
    """

    max_bytes: int = 16 << 20  # of one record as stored, and again of its decoded content
    max_ratio: int = 300  # decompressed to compressed bytes; HTML reaches 50, deflate cannot exceed 1,032
    ratio_floor: int = 1 << 20  # what decompresses to less than this is never a bomb
    base_url: str = "file:///"
    url_field: str = "url"
    date_field: str = "date"
    html_field: str = "html"
    text_field: str = "text"

    def __post_init__(self):
        for name in ("max_bytes", "max_ratio", "ratio_floor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        fields = (self.url_field, self.date_field, self.html_field, self.text_field)
        if not all(fields) or len(set(fields)) < len(fields):
            raise ValueError(f"url_field, date_field, html_field and text_field must be four names, got {fields}")
        if "://" not in self.base_url:
            raise ValueError(f"base_url must be a URL, got {self.base_url!r}")

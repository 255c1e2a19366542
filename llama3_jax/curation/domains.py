"""Which URLs are on lists of domains to drop (Llama 3, 3.1): adult, harmful, personal information, malware ...

A list is a UTF-8 file that the user supplies. Each line holds a category and an entry, separated by white space; `#`
behind white space or at the start of a line begins a comment. The form of the entry says what it covers:

    adult     .example.com          the host and every host below it
    harmful   www.example.com       this host alone
    malware   example.com/files/    URLs of this host whose path and query begin so
    pii       ~/people/[0-9]+$      a regular expression (Python's `re`), searched for in host + path + query

Of several entries that fit, the most specific wins: the longest URL prefix, then the host, then the longest suffix,
then the first regular expression; of equal ones the first. So a category such as `allow`, which no rule drops, exempts.
No list of public suffixes is involved: `.co.uk` covers every British company, `.blogspot.com` every blog there.
"""

import dataclasses
import io
import os
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llama3_jax.core.files import open_file
from llama3_jax.curation.annotations import Scores

SAMPLE = Path(__file__).parent / "lists" / "domains.sample.txt"
"""A tiny list of reserved names that shows the format."""

_COMMENT = re.compile(r"(?:^|\s)#.*")
_URL = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^/?#@\s]*@)*(\[[^\]/?#]*\]|[^/?#:\s]*)(?::[0-9]*)?([^#]*)")


class Match(NamedTuple):
    """What a URL is on a list for."""

    category: str
    entry: str  # as the list writes it


_NOT_LISTED = Match("", "")


class ListError(ValueError):
    """A line of a list that says nothing."""


def normalise_host(host: str) -> str:
    """Lower case, IDNA (2003) in ASCII, percent escapes undone, without a closing dot."""
    if host.isascii() and "%" not in host:
        return host.lower().rstrip(".")
    host = urllib.parse.unquote(host).lower().replace("\u3002", ".").rstrip(".")
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def split_url(url: str) -> tuple[str, str]:
    """(host, path and query) without scheme, user, port and fragment; ("", "") for what is no URL with a host."""
    found = _URL.match(url)
    return (normalise_host(found[1]), found[2]) if found else ("", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainLists:
    """Entries by form. Made by `load` or `parse`."""

    hosts: dict[str, Match]
    suffixes: dict[str, Match]  # by host without the leading dot
    prefixes: dict[str, tuple[tuple[str, Match], ...]]  # by host: (path, match), longest first
    patterns: tuple[tuple[re.Pattern[str], Match], ...]

    @classmethod
    def load(cls, paths: Iterable[str | os.PathLike]) -> "DomainLists":
        """Of files at paths or fsspec URLs, in this order. Raises OSError, and ListError that names file and line."""
        lines = []
        for path in paths:
            with io.TextIOWrapper(open_file(path), encoding="utf-8") as file:
                lines += [(f"{os.fspath(path)}:{number}", line) for number, line in enumerate(file, 1)]
        return cls.parse(lines)

    @classmethod
    def parse(cls, lines: Iterable[tuple[str, str]]) -> "DomainLists":
        """Of (place for messages, line)."""
        hosts: dict[str, Match] = {}
        suffixes: dict[str, Match] = {}
        prefixes: dict[str, dict[str, Match]] = {}
        patterns = []
        for place, line in lines:
            columns = _COMMENT.sub("", line.lstrip("\ufeff")).split(None, 1)
            if not columns:
                continue
            if len(columns) < 2:
                raise ListError(f"{place}: a category and an entry were expected, got {line.strip()!r}")
            category, entry = columns[0], columns[1].strip()
            match = Match(category, entry)
            if entry.startswith("~"):
                patterns.append((_pattern(entry[1:], place), match))
                continue
            host, path = split_url(entry if "://" in entry else "//" + entry.removeprefix("."))
            if not host or " " in entry or (path and entry.startswith(".")):
                raise ListError(f"{place}: neither a host, .suffix, URL prefix nor ~pattern: {entry!r}")
            if path:
                prefixes.setdefault(host, {}).setdefault(path, match)
            else:
                (suffixes if entry.startswith(".") else hosts).setdefault(host, match)
        by_length = {
            host: tuple(sorted(paths.items(), key=lambda item: -len(item[0]))) for host, paths in prefixes.items()
        }
        return cls(hosts=hosts, suffixes=suffixes, prefixes=by_length, patterns=tuple(patterns))

    def match(self, url: str) -> Match | None:
        """The most specific entry that covers the URL."""
        host, rest = split_url(url)
        for prefix, match in self.prefixes.get(host, ()):
            if rest.startswith(prefix):
                return match
        match = self._match_host(host)
        if match is None and host:
            match = next((match for pattern, match in self.patterns if pattern.search(host + rest)), None)
        return match

    def scores(self, urls: Sequence[str]) -> Scores:
        """`domain_category` and `domain_entry` of each URL, "" where it is on no list."""
        codes: dict[Match | None, int] = {None: 0}
        by_host: dict[str, int] = {}  # -1 for a host with entries that look at the path
        found, find, known = [], _URL.match, by_host.get
        for url in urls:
            parts = find(url)
            host = "" if parts is None else parts[1]
            code = known(host)
            if code is None:
                code = by_host[host] = self._host_code(host, codes)
            if code < 0:
                code = codes.setdefault(self.match(url), len(codes))
            found.append(code)
        chosen = np.array(found, np.int64)
        listed = [match or _NOT_LISTED for match in codes]
        categories = np.array([match.category for match in listed], np.str_)
        entries = np.array([match.entry for match in listed], np.str_)
        return {"domain_category": categories[chosen], "domain_entry": entries[chosen]}

    def _host_code(self, raw_host: str, codes: dict[Match | None, int]) -> int:
        host = normalise_host(raw_host)
        match = self._match_host(host)
        if host in self.prefixes or (match is None and self.patterns and host):
            return -1
        return codes.setdefault(match, len(codes))

    def _match_host(self, host: str) -> Match | None:
        if host in self.hosts:
            return self.hosts[host]
        suffixes, suffix = self.suffixes, host
        while suffix not in suffixes:
            dot = suffix.find(".")
            if dot < 0:
                return None
            suffix = suffix[dot + 1 :]
        return suffixes[suffix]


def _pattern(text: str, place: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ListError(f"{place}: not a regular expression: {error}") from error

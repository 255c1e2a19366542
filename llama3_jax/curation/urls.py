"""Which URLs name one page: a normal form, and its hash, for URL deduplication (Llama 3, 3.1: the newest page is kept).

The normal form ignores what seldom selects a page: case of scheme and host, http against https, default ports, a final
slash, fragments, the order of parameters, the parameters of trackers and sessions, and how characters are escaped
(RFC 3986, 6.2). It keeps "www.", dot segments, case of the path, and fragments that begin with "!". It is a key, not an
address to fetch. Hosts outside ASCII are expected as crawlers store them, in Punycode.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llama3_jax.curation import hashing
from llama3_jax.curation.text_batch import TextBatch

# Scheme, authority, path, query, fragment (RFC 3986, appendix B). Python's `urlsplit` changes between versions.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})?")
_NOT_PRINTABLE = re.compile("[^!-~]+")  # of ASCII
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH_SESSION = re.compile(";jsessionid=[^/;]*", re.IGNORECASE)

_SAME_SCHEME = {"http:": "https:"}
# What says nothing at the end of an authority: the root's dot, and the scheme's own port (of "https:", of both).
_HOST_END = {"https:": re.compile(r"(?:\.|:(?:80|443)?)+$"), "ftp:": re.compile(r"(?:\.|:(?:21)?)+$")}
_ANY_HOST_END = re.compile("[.:]+$")
_CLICKS = """
    gclid gclsrc dclid gbraid wbraid fbclid msclkid yclid twclid ttclid igshid igsh mc_cid mc_eid mkt_tok srsltid
    _hsenc _hsmi _ga _gl _openstat oly_anon_id oly_enc_id vero_id s_cid
"""
_SESSIONS = "jsessionid phpsessid sessionid session_id cfid cftoken"
_IGNORED_PARAMETERS = frozenset((_CLICKS + _SESSIONS).split())
_IGNORED_PREFIXES = ("utm_", "pk_", "mtm_", "hsa_", "aspsessionid")


class UrlKeys(NamedTuple):
    """The documents that have a URL."""

    hash: np.ndarray  # uint64 [K]
    row: np.ndarray  # int64 [K]: the document's index within the batch


def url_keys(urls: Sequence[str]) -> UrlKeys:
    """A hash of each URL's normal form. A document without one ("") has no key: no two of those are one page."""
    row = [index for index, url in enumerate(urls) if url.strip()]
    batch = TextBatch.of([normal_form(urls[index]) for index in row])
    hashes = hashing.hash_ranges(batch.data, batch.offsets[:-1], batch.offsets[1:])
    return UrlKeys(hashes, np.array(row, np.int64))


def normal_form(url: str) -> str:
    """The key of a URL; a key is its own key. What has no "//" is no address on a network, and is only stripped."""
    match = _URL.fullmatch(url.strip())
    if match is None:
        return url.strip()
    scheme, authority, path, query, fragment = (part or "" for part in match.groups())
    scheme = _SAME_SCHEME.get(scheme.lower(), scheme.lower())
    authority = _HOST_END.get(scheme, _ANY_HOST_END).sub("", _escaped(authority.lower()).lower())
    path = _PATH_SESSION.sub("", _escaped(path)).rstrip("/")
    query = _parameters(_escaped(query))
    fragment = "#" + _escaped(fragment) if fragment.startswith("!") else ""
    return f"{scheme}//{authority}{path}{query}{fragment}"


def _parameters(query: str) -> str:
    """The parameters that may matter, by name; those of one name keep their order."""
    parameters = [(part.partition("=")[0], part) for part in query.split("&") if part]
    kept = sorted((one for one in parameters if not _is_ignored(one[0].lower())), key=lambda one: one[0])
    return "?" + "&".join(part for _, part in kept) if kept else ""


def _is_ignored(name: str) -> bool:
    return name in _IGNORED_PARAMETERS or name.startswith(_IGNORED_PREFIXES)


def _escaped(text: str) -> str:
    """Escapes what must be, in capitals, and nothing that need not be."""
    text = _ESCAPE.sub(_one_escape, text) if "%" in text else text
    return text if text.isascii() and text.isprintable() and " " not in text else _NOT_PRINTABLE.sub(_escapes, text)


def _one_escape(match: re.Match) -> str:
    digits = match[1]
    if digits is None:  # a lone percent sign
        return "%25"
    character = chr(int(digits, 16))
    return character if character in _UNRESERVED else f"%{digits.upper()}"


def _escapes(match: re.Match) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))

"""From bytes of a page to characters: byte-order mark, valid UTF-8, the header's label, the page's own, a fallback.

The order differs from the WHATWG's encoding sniffing in one point. There the header wins over everything but a
byte-order mark; on the web it is often a server's default and wrong. Text of any length that is valid UTF-8 with
characters beyond ASCII is UTF-8 in practice, whatever a label says, so validity is asked first.
"""

import codecs
import re

_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_SNIFFED = 4096  # bytes searched for a label; the standard says 1,024, pages put it later
_META = re.compile(rb"<meta\b[^>]{0,512}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([\w.:-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml[^>]{1,200}?encoding\s{0,9}=\s{0,9}[\"']([\w.:-]{2,40})")
# Labels for which Python's codec of that name is not the web's: https://encoding.spec.whatwg.org/#names-and-labels
_WEB_CODECS = {
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "iso_8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "l1": "cp1252",
    "iso-8859-9": "cp1254",
    "latin5": "cp1254",
    "iso-8859-11": "cp874",
    "tis-620": "cp874",
    "windows-874": "cp874",
    "gb2312": "gb18030",
    "gb_2312-80": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "chinese": "gb18030",
    "big5": "big5hkscs",
    "x-x-big5": "big5hkscs",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "korean": "cp949",
    "windows-949": "cp949",
    "x-mac-cyrillic": "mac_cyrillic",
    "macintosh": "mac_roman",
    "x-mac-roman": "mac_roman",
    "unicode": "utf-16-le",
    "utf-16": "utf-16-le",
    "x-user-defined": "cp1252",
    "iso-8859-8-i": "iso-8859-8",
}
_TEXT_CODECS = re.compile(r"utf|cp\d|iso|latin|koi|mac|big5|gb|euc|hz|shift|johab|tis|kz|ptcp|viscii")


def decode_html(content: bytes, header_charset: str | None = None) -> str:
    """Characters of a page, from its bytes and the charset its HTTP header named, if any. Never raises.

    Bytes that the encoding does not have become U+FFFD.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    wide = _wide_without_mark(content)
    if wide is not None:
        return content.decode(wide, "replace")
    labels = [codec for codec in (_codec(header_charset), _codec(_declared(content))) if codec is not None]
    if b"\x1b$" in content and "iso-2022-jp" in labels:  # all of its bytes are ASCII
        return content.decode("iso-2022-jp", "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as fault:
        if _is_damaged_utf8(content, fault.start):
            return content.decode("utf-8", "replace")
    for encoding in labels:
        if _is_plausible(content, encoding):
            return content.decode(encoding, "replace")
    return content.decode("cp1252", "replace")


def _declared(content: bytes) -> str | None:
    """The label in a page's own `<meta>` or XML declaration."""
    start = content[:_SNIFFED]
    found = _META.search(start) or _XML.match(start)
    return found.group(1).decode("ascii") if found else None


def _codec(label: str | None) -> str | None:
    """Python's name of the web's encoding `label`; None for an unknown one, and for codecs that are not of text."""
    if not label:
        return None
    name = label.strip(" \t\"';").lower()
    name = _WEB_CODECS.get(name, name)
    try:
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    return name if _TEXT_CODECS.match(known) and known != "utf-7" else None


def _is_damaged_utf8(content: bytes, first_fault: int) -> bool:
    """Whether bytes are UTF-8 with a few faults (a cut character, a pasted quotation mark) rather than something else.

    Counts well-formed multi-byte sequences against faults in the first 64 KiB from the first non-ASCII byte on.
    """
    sample = content[max(0, first_fault - (1 << 15)) : first_fault + (1 << 15)]
    text = sample.decode("utf-8", "replace")
    faults = text.count("\ufffd")
    return len(text) - len(text.encode("ascii", "ignore")) - faults > 4 * faults


def _is_plausible(content: bytes, encoding: str) -> bool:
    """Whether `encoding` explains nearly all of the bytes: a wrong label of a wide or strict encoding does not."""
    if encoding.startswith(("utf", "u8")):
        return False  # each of them was tried before, and it is not
    sample = content[: 1 << 16]
    return sample.decode(encoding, "replace").count("\ufffd") <= 1 + len(sample) // 200


def _wide_without_mark(content: bytes) -> str | None:
    """UTF-16 shows itself by its NULs: every other byte of `<html` is one."""
    start = content[:16]
    if len(start) >= 4 and start[1::2].count(0) > len(start) // 3:
        return "utf-16-le"
    if len(start) >= 4 and start[0::2].count(0) > len(start) // 3:
        return "utf-16-be"
    return None

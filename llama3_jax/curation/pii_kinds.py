"""Which personal identifiers are looked for: one row of a table each, in the order in which they win where two overlap.

Patterns match bytes, one for each character of the text (anything beyond Latin-1 is `?`). Those of numbers demand that
the number stands for itself: no letter, digit or further group follows or precedes it. A number without check digits,
or with so little form that a tenth of all numbers passes, counts only behind a word that says what it is.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

from llama3_jax.curation import checksums

Check = Callable[[str, str], int]
"""(what the pattern matched, the text before it on its line) -> how many characters of it count, 0 for none."""


NUMBER, TABLE, CODICE, PAN, COLON, AT = 1, 2, 4, 8, 16, 32
"""Places worth a look: digits close to each other, too many of them for one identifier, digits among letters as in two
identifiers, `20ab:`, `@`."""


class Kind(NamedTuple):
    """One form of an identifier; several may share a name."""

    name: str
    pattern: re.Pattern[bytes]
    check: Check
    context: re.Pattern[str] | None = None  # must be found shortly before it
    place: int = NUMBER  # where the pattern is tried; what it matches overlaps such a place
    min_digits: int = 0  # that must stand close to each other there
    score: float = 1.0  # 1 with check digits, 0.5 by form or context alone


_BEFORE = rb"(?<![0-9A-Za-z_+])(?<![0-9A-Za-z][-_=/])(?<![0-9][ .,:])"
_BEHIND = rb"(?![0-9A-Za-z_])(?![-_=/:][0-9A-Za-z])(?![ .,][0-9])"


def _number(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(_BEFORE + b"(?:" + pattern + b")" + _BEHIND)


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern})[^\w]*(?:\w{{1,12}}[^\w]+){{0,2}}$", re.IGNORECASE)


def _alone(found: str, before: str) -> int:
    return len(found)


def _digits(check: Callable[[str], bool]) -> Check:
    """Of the letters and digits that were found."""
    return lambda found, before: len(found) * check("".join(filter(str.isalnum, found)))


# E-mail

_FILES = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "ico", "bmp", "pdf", "zip", "gz", "txt", "md")
    + ("css", "js", "mjs", "ts", "json", "html", "htm", "php", "py")
)
_EMAIL = re.compile(
    rb"(?<![0-9A-Za-z.!#$%&'*+/=^_`{|}~@-])"
    rb"[0-9A-Za-z_%+](?:[0-9A-Za-z_%+-]|\.(?=[0-9A-Za-z_%+-])){0,63}"
    rb"@(?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?\.){1,8}[A-Za-z]{2,24}"
    rb"(?![0-9A-Za-z_@])(?![-.][0-9A-Za-z])(?!:[0-9A-Za-z~/_.-])"  # git@host:path is no mail
)


def _email(found: str, before: str) -> int:
    return len(found) * (found.rpartition(".")[2].lower() not in _FILES)


# Addresses of the internet. Tables, since `is_global` of the standard library changed between versions of Python.

_SPECIAL_4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        "224.0.0.0/3",
    )
)
_SPECIAL_6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_VERSION = re.compile(
    r"(?:\bv|ver|version|release|build|firmware|driver|section|chapter|§|rfc|oid)\W{0,3}$", re.IGNORECASE
)
_ADDRESS = re.compile(r"\b(?:ip|ipv4|addr|address|host|server|dns|ping)\b\W{0,3}(?:\w{1,8}\W{1,2})?$", re.IGNORECASE)
_SMALL_OCTET = 20  # numbers below it are rather a version or a section, unless they are all the same


def _ipv4(found: str, before: str) -> int:
    address = ipaddress.IPv4Address(found)
    if any(address in network for network in _SPECIAL_4) or _VERSION.search(before):
        return 0
    is_small = all(octet < _SMALL_OCTET for octet in address.packed) and len(set(address.packed)) > 1
    return len(found) * (not is_small or _ADDRESS.search(before) is not None)


def _ipv6(found: str, before: str) -> int:
    try:
        address = ipaddress.IPv6Address(found)
    except ValueError:
        return 0
    is_clock = "::" not in found and all(len(group) <= 2 and group.isdigit() for group in found.split(":")[1:])
    return len(found) * (not is_clock and not any(address in network for network in _SPECIAL_6))


# Banks

_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB LC NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        33: "RU",
    }.items()
    for country in countries.split()
}
_IBAN = re.compile(_BEFORE + rb"[A-Z]{2}[0-9]{2}(?:[ -]?[0-9A-Z]){11,30}")
_CARDS = re.compile(
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)


def _iban(found: str, before: str) -> int:
    """The pattern takes words that follow along: only as many characters count as the country has."""
    places = [place for place, letter in enumerate(found) if letter.isalnum()]
    length = _IBAN_LENGTHS.get(found[:2], len(places) + 1)
    if length > len(places) or found[places[length - 1] + 1 :][:1].isalnum():
        return 0
    return (places[length - 1] + 1) * checksums.mod_97("".join(found[place] for place in places[:length]))


def _card(found: str, before: str) -> int:
    digits = "".join(filter(str.isdigit, found))
    return len(found) * (bool(_CARDS.fullmatch(digits)) and len(set(digits)) > 1 and checksums.luhn(digits))


# Telephones

_COUNTRY_CODE = (
    rb"(?:1|7|2(?:0|7|1[1-36-8]|[2-6][0-9]|9[0-79])|3(?:[0-469]|[578][0-9])|4(?:[013-9]|2[013])|5(?:[1-8]|[09][0-9])"
    rb"|6(?:[0-6]|[78][0-9]|9[0-2])|8(?:[1246]|0[08]|5[0-9]|7[08]|8[0-38])|9(?:[0-58]|6[0-8]|7[0-79]|9[2-68]))"
)
_AREA = rb"[2-9][0-9]{2}"
_CALL = re.compile(
    r"(?:\b(?:ph(?:one)?|tele?|tele?phone|telefax|fax|mobile?|cell(?:phone|ular|ulare)?|call|whats ?app|tele?fono?e?"
    r"|handy|fone|celular|t[ée]l[ée]phone|t[ée]l|tel[ée]fono|m[óo]vil|portable|telem[óo]vel)\b|โทร(?:ศัพท์)?|มือถือ|फ़?ोन|फोन|मोबाइल)"
    r"[^\w]*(?:(?:no|nr|num|number|n[úu]mero|num[ée]ro|nummer|me|us|on|at|is)\b[^\w]*){0,2}$",
    re.IGNORECASE,
)
_YEARS = re.compile(
    r"(?:19|20)\d\d(?:[ ./–-]+(?:19|20)\d\d)+|(?:19|20)\d\d[-./]\d\d?[-./]\d\d?|\d\d?[-./]\d\d?[-./](?:19|20)\d\d"
)


def _international(found: str, before: str) -> int:
    digits = "".join(filter(str.isdigit, found))
    digits = digits if found.startswith("+") else digits[2:]
    if digits.startswith("1"):
        return len(found) * bool(re.fullmatch(r"1[2-9]\d\d[2-9]\d{6}", digits))
    fewest = 10 if found[1:].isdigit() else 8  # "+" may also be a sign
    return len(found) * (fewest <= len(digits) <= 15 and len(set(digits)) > 2)


def _called(found: str, before: str) -> int:
    digits = "".join(filter(str.isdigit, found))
    return len(found) * (7 <= len(digits) <= 13 and len(set(digits)) > 2 and not _YEARS.search(found))


# National identifiers


def _aadhaar(found: str, before: str) -> int:
    digits = "".join(filter(str.isdigit, found))
    are_years = all(digits[place : place + 2] in ("19", "20") for place in (0, 4, 8))
    return len(found) * (not are_years and checksums.verhoeff(digits))


_NIF_CONTEXT = _words(r"\bNIF\b|contribuinte|fiscal|\bVAT\b|\bPT")
_THAI_CONTEXT = _words(r"ประชาชน|ประจำตัว|citizen|national id|thai id|identification")

KINDS = (
    Kind("email", _EMAIL, _email, place=AT, score=0.5),
    Kind("iban", _IBAN, _iban, min_digits=7),
    Kind("card", _number(rb"[2-6][0-9]{13,18}"), _card, min_digits=14),
    Kind("card", _number(rb"[2-6][0-9]{3}(?:([ -])[0-9]{4}(?:\1[0-9]{4}){2}(?:\1[0-9]{1,3})?)"), _card, min_digits=14),
    Kind("card", _number(rb"3[0-9]{3}([ -])[0-9]{6}\1[0-9]{4,5}"), _card, min_digits=14),
    Kind(
        "ipv6",
        re.compile(rb"(?<![0-9A-Za-z:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])(?!\.[0-9])"),
        _ipv6,
        place=COLON,
        score=0.5,
    ),
    Kind(
        "ipv4",
        re.compile(rb"(?<![0-9A-Za-z_.-])" + _OCTET + rb"(?:\." + _OCTET + rb"){3}(?![0-9A-Za-z_-])(?!\.[0-9A-Za-z])"),
        _ipv4,
        place=NUMBER | TABLE,
        min_digits=4,
        score=0.5,
    ),
    Kind(
        "fr_nir",
        _number(rb"[12] ?[0-9]{2} ?(?:0[1-9]|1[0-2]|[2-9][0-9]) ?(?:2[AB]|[0-9]{2}) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"),
        _digits(checksums.nir),
        min_digits=8,
    ),
    Kind(
        "th_id",
        _number(rb"[1-8]([ -])[0-9]{4}\1[0-9]{5}\1[0-9]{2}\1[0-9]"),
        _digits(checksums.thai_id),
        min_digits=13,
    ),
    Kind("th_id", _number(rb"[1-8][0-9]{12}"), _digits(checksums.thai_id), _THAI_CONTEXT, min_digits=13),
    Kind(
        "it_codice_fiscale",
        _number(rb"(?i:[A-Z]{6}[0-9L-NP-V]{2}[A-EHLMPR-T][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z])"),
        _digits(checksums.codice_fiscale),
        place=CODICE,
    ),
    Kind("in_aadhaar", _number(rb"[2-9][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}"), _aadhaar, min_digits=12),
    Kind("in_aadhaar", _number(rb"[2-9][0-9]{11}"), _aadhaar, _words(r"a+dh?aa?r|uid(?:ai)?|आधार"), min_digits=12),
    Kind("in_pan", _number(rb"[A-Z]{3}[ABCEFGHJKLPT][A-Z][0-9]{4}[A-Z]"), _alone, place=PAN, score=0.5),
    Kind("br_cpf", _number(rb"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"), _digits(checksums.cpf), min_digits=11),
    Kind("br_cpf", _number(rb"[0-9]{11}"), _digits(checksums.cpf), _words(r"\bCPF"), min_digits=11),
    Kind(
        "de_steuer_id",
        _number(rb"[1-9][0-9]{10}|[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3}"),
        _digits(checksums.steuer_id),
        min_digits=11,
    ),
    Kind("es_nie", _number(rb"[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]"), _digits(checksums.dni), min_digits=7),
    Kind(
        "es_dni",
        _number(rb"[0-9]{8}[- ]?[A-HJ-NP-TV-Z]|[0-9]{2}\.[0-9]{3}\.[0-9]{3}[- ]?[A-HJ-NP-TV-Z]"),
        _digits(checksums.dni),
        min_digits=8,
    ),
    Kind(
        "us_ssn",
        _number(rb"(?!000|666|9)[0-9]{3}([- ])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}"),
        _alone,
        min_digits=9,
        score=0.5,
    ),
    Kind(
        "us_ssn",
        _number(rb"(?!000|666|9)[0-9]{3}(?!00)[0-9]{2}(?!0000)[0-9]{4}"),
        _alone,
        _words(r"\bSSN\b|social security"),
        min_digits=9,
        score=0.5,
    ),
    Kind(
        "pt_nif",
        _number(rb"(?:[12356789][0-9]{8}|[12356789][0-9]{2} [0-9]{3} [0-9]{3})"),
        _digits(checksums.nif_portugal),
        _NIF_CONTEXT,
        min_digits=9,
    ),
    Kind(
        "phone",
        re.compile(
            rb"(?<![0-9A-Za-z_+=/-])(?:\+" + _COUNTRY_CODE + rb"|(?<![0-9][ .,:])00" + _COUNTRY_CODE + rb"(?=[ ./(-]))"
            rb"(?:[ ./-]{0,2}\(?[0-9]{1,12}\)?){0,6}[ ./-]{0,2}[0-9]{2,12}" + _BEHIND
        ),
        _international,
        min_digits=8,
        score=0.5,
    ),
    Kind(  # United States and Canada
        "phone",
        _number(
            rb"(?:1[ .-])?(?:\(" + _AREA + rb"\) ?" + _AREA + rb"[ .-]|" + _AREA + rb"([.-])" + _AREA + rb"\1)[0-9]{4}"
        ),
        _alone,
        min_digits=10,
        score=0.5,
    ),
    Kind(  # France
        "phone", _number(rb"0[1-9]([ .-])[0-9]{2}(?:\1[0-9]{2}){3}"), _alone, min_digits=10, score=0.5
    ),
    Kind(  # Brazil
        "phone", _number(rb"\([1-9][1-9]\) ?9? ?[2-9][0-9]{3}[- ][0-9]{4}"), _alone, min_digits=10, score=0.5
    ),
    Kind(  # Germany and Italy write the area in brackets or before a stroke
        "phone",
        _number(rb"(?:\(0[1-9][0-9]{1,4}\) ?|0[1-9][0-9]{1,4} ?/ ?)[0-9]{3,4}[ -]?[0-9]{2,5}(?:[ -][0-9]{1,4})?"),
        _called,
        min_digits=8,
        score=0.5,
    ),
    Kind(  # Thailand
        "phone",
        _number(rb"0(?:[689][0-9]-[0-9]{3}-[0-9]{4}|2-[0-9]{3}-[0-9]{4}|[3-7][0-9]-[0-9]{3}-[0-9]{3})"),
        _alone,
        min_digits=9,
        score=0.5,
    ),
    Kind(  # India's mobiles
        "phone", _number(rb"0?[6-9][0-9]{4}[ -][0-9]{5}"), _alone, min_digits=10, score=0.5
    ),
    Kind(
        "phone",
        _number(rb"\(?[0-9]{2,12}\)?(?:[ ./-]{1,3}\(?[0-9]{1,8}\)?){0,6}"),
        _called,
        _CALL,
        min_digits=7,
        score=0.5,
    ),
)
"""In the order in which they win."""

NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))

"""Every kind is found where it is planted and not in what only looks like it; masks and offsets hold for any text."""

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.curation import checksums
from llama3_jax.curation.annotations import Spans
from llama3_jax.curation.cuts import cut_text, of_row
from llama3_jax.curation.pii import PLACEHOLDERS, find_pii, pii_scores
from llama3_jax.curation.pii_kinds import KINDS, NAMES

PLANTED = {
    "email": [
        "bob@example.com",
        "anna.maria+news@mail.example.co.uk",
        "o_brien-7%x@xn--bcher-kva.example",
        "A1@sub-domain.example.museum",
    ],
    "ipv4": ["8.8.8.8", "93.184.216.34", "185.199.108.153", "1.1.1.1", "223.255.255.254", "11.0.0.200"],
    "ipv6": [
        "2a00:1450:4001:82b::200e",
        "2606:4700:4700::1111",
        "2600:1f18:1234:5678:9abc:def0:1234:5678",
        "2A02:26F0::1",
    ],
    "phone": [
        "+49 30 1234567",
        "+1 (212) 555-0143",
        "+1-212-555-0143",
        "+33 1 23 45 67 89",
        "+91 98765 43210",
        "+442079460958",
        "0049 30 1234567",
        "(212) 555-0143",
        "212-555-0143",
        "212.555.0143",
        "01 23 45 67 89",
        "(11) 98765-4321",
        "(030) 1234567",
        "0171/2345678",
        "081-234-5678",
        "98765 43210",
        "+44 20 7946 0958",
        "+55 11 91234-5678",
        "+39 06 12345678",
        "+66 2 123 4567",
        "+34 912 345 678",
        "+351 912 345 678",
        "+91-9876543210",
        "+49 (0)30 1234567",
        "+49-30-1234567-89",
        "06.12.34.56.78",
        "1-800-555-0199",
        "02-123-4567",
    ],
    "card": [
        "4111 1111 1111 1111",
        "4111111111111111",
        "5500-0000-0000-0004",
        "378282246310005",
        "3782 822463 10005",
        "6011000990139424",
        "2223003122003222",
        "3530111333300000",
        "30569309025904",
    ],
    "iban": [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB82 WEST 1234 5698 7654 32",
        "FR14 2004 1010 0505 0001 3M02 606",
        "MT84MALT011000012345MTLCAST001S",
        "NO93 8601 1117 947",
    ],
    "us_ssn": ["123-45-6789", "536 22 1234"],
    "de_steuer_id": ["86095742719", "65 929 970 489", "47036892816"],
    "fr_nir": ["1 85 05 78 006 084 91", "255081416802538", "1 85 05 2A 006 084 35"],
    "it_codice_fiscale": ["RSSMRA85T10A562S", "rssmra85t10a562s"],
    "pt_nif": [],
    "br_cpf": ["529.982.247-25", "111.444.777-35"],
    "in_aadhaar": ["2341 2341 2346", "4991-1866-5246"],
    "in_pan": ["ABCPE1234F", "AAACT1234Q"],
    "es_dni": ["12345678Z", "12345678-Z", "12.345.678-Z"],
    "es_nie": ["X1234567L", "Y-1234567-X", "Z1234567R"],
    "th_id": ["1-1017-00230-70-8", "1 1017 00230 70 8"],
}

WITH_CONTEXT = {
    "phone": [
        "Tel: {612 345 678}",
        "Phone no. {555 0143}",
        "Telefon {030 1234567}",
        "fax +{}",
        "call me at {5551234567}",
        "Tel. {0151 23456789}",
        "โทร {02 123 4567}",
        "मोबाइल: {9876543210}",
    ],
    "us_ssn": ["SSN: {123456789}", "social security number {536221234}"],
    "pt_nif": ["NIF {123456789}", "contribuinte n.º {123 456 789}"],
    "br_cpf": ["CPF: {52998224725}"],
    "in_aadhaar": ["Aadhaar number {234123412346}", "आधार {234123412346}"],
    "th_id": ["เลขประจำตัวประชาชน {1101700230708}"],
    "ipv4": ["IP address {5.6.7.8}", "ping {9.8.7.6}"],
}

CLEAN = [
    # no address
    "user@localhost", "icon@2x.png", "npm i left-pad@1.3.0", "git@github.com:owner/name.git", "@someone @property",
    "a@b", "bob@@example.com", "bob@example..com", "bob@-example.com", "x @ y.z", "bob@example.c", "10@5.00",
    # no public address of the internet
    "192.168.1.1", "10.1.2.3", "127.0.0.1", "172.16.254.1", "169.254.7.9", "224.0.0.251", "255.255.255.0", "0.0.0.0",
    "203.0.113.7", "256.1.1.1", "1.2.3.4", "v93.184.216.34", "Version 120.0.6099.71", "release 93.184.216.34",
    "1.2.3.4.5", "93.184.216.34.5", "093.184.216.034", "section 21.33.44.55", "libfoo-93.184.216.34.tar.gz",
    "2001:db8::1", "fe80::1", "::1", "12:34:56:78", "2021:03:04:05:06:07:08:09", "2a00:1450", "std::vector<2a00>::x",
    "2a00:1450:4001:82b:0:0:0:200e:1", "2345:67", "20ab:cd:ef:01:23:45:67:89:ab:cd",
    # no telephone
    "2021-03-04 12:33:44", "2021-03-04", "04.03.2021", "1990-1995", "1914-1918, 1939-1945", "12,345,678",
    "978-3-16-148410-0", "ISBN 0-306-40615-2", "ISBN 9783161484100", "+100000000", "-12345678901", "+1 2 3 4",
    "x + 49 30 1234567", "100 200 300 400", "20 30 40 50 60 70", "order 1234567890", "RFC 2119-2120", "+35236450.6",
    "212-555-01434", "1212-555-0143", "112-555-0143", "212-155-0143", "212-555.0143", "id-212-555-0143", "#00123456789",
    "00123456789", "01 23 45 67 89 01", "the call of 2020-2021", "phone 12", "Tel 123456", "12345-67890-12345",
    # no card
    "4111 1111 1111 1112", "4111111111111112", "411111111111111", "4111 1111 1111 11110", "0000000000000000",
    "1612345678901234", "4111-1111 1111-1111", "0.4111111111111111", "a4111111111111111", "4111111111111111a",
    "id=4111111111111111", "x/4111111111111111/", "9780306406157", "4012888888881881000000",
    # no bank account
    "DE89 3704 0044 0532 0130 01", "DE8937040044053201300", "XX89370400440532013000", "DE893704004405320130000",
    "GB82 WEST 1234 5698 7654 33",
    # nobody
    "000-45-6789", "666-45-6789", "912-45-6789", "123-00-6789", "123-45-0000", "123-45-67890", "1123-45-6789",
    "86095742718", "11111111111", "12345678901", "06095742719", "1 85 05 78 006 084 92", "1 85 13 78 006 084 91",
    "RSSMRA85T10A562T", "RSSMRA85Z10A562S", "XRSSMRA85T10A562S", "123456789", "NIF 123456788", "529.982.247-26",
    "52998224725", "111.111.111-11", "2341 2341 2347", "234123412346", "1341 2341 2346", "2010 2011 2012",
    "2341 2341 2346 1234", "ABCDE1234F", "ABCPE12345F", "abcpe1234f", "12345678A", "X1234567A", "W1234567L",
    "12345678ZZ", "1-1017-00230-70-9", "9-1017-00230-70-8", "1101700230708", "1-1017-00230-708",
    # hexadecimal, times, tables
    "550e8400-e29b-41d4-a716-446655440000", "d41d8cd98f00b204e9800998ecf8427e", "0x4111111111111111",
    "deadbeef12345678", "3.1415926535", "1700000000", "1700000000000", "e-12345678",
    "2021-03-04T12:33:44.123456789Z", "1 2 3 4 5 6 7 8 9 10 11 12 13",
    "12 345 678 901 234", "sha1:2fd4e1c67a2d28fced849ee1bb76e7391b93eb12", "UTC+0530", "1e+4915112345678",
]  # fmt: skip

ROUND = [
    ("", ""),
    ("He wrote ", " yesterday."),
    ("(", ")"),
    ("日本", "です"),
    ("é: ", ", ü"),
    ("\n", "\n"),
    ("ไทย ", "!"),
]


def found_in(text: str) -> dict[str, list[str]]:
    return {
        name: [text[start:end] for start, end in zip(spans.start, spans.end, strict=True)]
        for name, spans in find_pii([text]).items()
        if spans.row.size
    }


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in PLANTED.items() for value in values])
def test_what_is_planted_is_found(name, value):
    for before, behind in ROUND:
        assert found_in(before + value + behind) == {name: [value]}, (before, behind)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WITH_CONTEXT.items() for text in texts])
def test_what_needs_a_word_before_it(name, text):
    if "{}" in text:
        assert found_in(text.format("49 30 1234567")) == {name: ["+49 30 1234567"]}
        return
    value = text[text.index("{") + 1 : text.index("}")]
    assert found_in(text.replace("{", "").replace("}", "")) == {name: [value]}
    assert found_in(f"Hello, {value} there") == {}


@pytest.mark.parametrize("text", CLEAN)
def test_what_only_looks_like_it_is_left(text):
    for before, behind in ROUND:
        assert found_in(before + text + behind) == {}, (before, behind)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mailto:bob@example.com.", {"email": ["bob@example.com"]}),
        ('<a href="mailto:bob@example.com">', {"email": ["bob@example.com"]}),
        ("Bob <bob@example.com>,bob2@example.com;", {"email": ["bob@example.com", "bob2@example.com"]}),
        ("bob@example.com - Bob", {"email": ["bob@example.com"]}),
        ("http://93.184.216.34:8080/x", {"ipv4": ["93.184.216.34"]}),
        ("from 93.184.216.34.", {"ipv4": ["93.184.216.34"]}),
        ("8.8.8.8,185.1.2.3 93.184.216.34/24", {"ipv4": ["8.8.8.8", "185.1.2.3", "93.184.216.34"]}),
        ("[2606:4700:4700::1111]:443", {"ipv6": ["2606:4700:4700::1111"]}),
        ("Karte:4111111111111111.", {"card": ["4111111111111111"]}),
        ("IBAN:DE89 3704 0044 0532 0130 00\nBIC COBADEFF", {"iban": ["DE89 3704 0044 0532 0130 00"]}),
        ("DE89370400440532013000 BIC COBADEFF", {"iban": ["DE89370400440532013000"]}),
        ("Steuer-ID:86095742719", {"de_steuer_id": ["86095742719"]}),
        ("212-555-0143 212-555-0144", {}),  # a table, for all one can tell
        ("212-555-0143, 212-555-0144", {"phone": ["212-555-0143", "212-555-0144"]}),
    ],
)
def test_in_sentences(text, expected):
    assert found_in(text) == expected


def test_every_kind_is_planted():
    assert {name for name in NAMES if PLANTED[name] or WITH_CONTEXT.get(name)} == set(NAMES) == set(PLACEHOLDERS)


def test_dashes_and_spaces_of_typography():
    assert found_in("+49\u00a030\u20111234567") == {"phone": ["+49\u00a030\u20111234567"]}
    assert found_in("4111\u202f1111\u202f1111\u202f1111") == {"card": ["4111\u202f1111\u202f1111\u202f1111"]}


def test_the_declared_order_decides_where_kinds_overlap():
    text = "Tel 4111 1111 1111 1111, Tel 529.982.247-25, phone DE89 3704 0044 0532 0130 00"
    assert found_in(text) == {
        "card": ["4111 1111 1111 1111"],
        "br_cpf": ["529.982.247-25"],
        "iban": ["DE89 3704 0044 0532 0130 00"],
    }


def test_neighbours_neither_help_nor_hide():
    """Only places worth a look are searched, yet what is found there is not a matter of what else is near."""
    card = {"card": ["4111 1111 1111 1111"]}
    for weak in ("Tel 123  4567", "1 " * 60, "20ab: x", "ABCDX1234", "11A11A111", "v1.2.3.4"):
        assert found_in(weak) == {}
        for text in (f"{weak}, 4111 1111 1111 1111", f"4111 1111 1111 1111; {weak}"):
            assert found_in(text) == card
    table = "1 " * 60 + "and 93.184.216.34 " + "2 3 " * 40
    assert found_in(table) == {"ipv4": ["93.184.216.34"]}


def test_a_batch_is_its_texts_one_by_one():
    texts = [value for values in PLANTED.values() for value in values] + CLEAN + ["", "\0", "ü"]
    random.Random(1).shuffle(texts)
    batch = find_pii(texts)
    for name, spans in batch.items():
        assert np.all(np.lexsort((spans.start, spans.row)) == np.arange(spans.row.size))
        for row, text in enumerate(texts):
            alone = find_pii([text])[name]
            here = spans.row == row
            assert spans.start[here].tolist() == alone.start.tolist() and spans.end[here].tolist() == alone.end.tolist()
    assert find_pii([])["email"].row.size == 0


def test_scores_of_spans_tell_checked_from_unchecked():
    found = find_pii(["4111 1111 1111 1111 or 123-45-6789"])
    assert found["card"].score.tolist() == [1.0] and found["us_ssn"].score.tolist() == [0.5]


# Masks and density


def masked(texts, found):
    """The texts as they are published."""
    return [
        cut_text(text, {PLACEHOLDERS[name]: of_row(spans, row).tolist() for name, spans in found.items()})
        for row, text in enumerate(texts)
    ]


def test_masks():
    texts = ["Ask bob@example.com or +49 30 1234567 (ü)", "nothing", "8.8.8.8"]
    found = find_pii(texts)
    assert masked(texts, found) == ["Ask <EMAIL> or <PHONE> (ü)", "nothing", "<IPV4>"]
    only_mail = masked(texts, {"email": found["email"]})
    assert only_mail == ["Ask <EMAIL> or +49 30 1234567 (ü)", "nothing", "8.8.8.8"]


def test_density():
    texts = ["x" * 981 + " bob@example.com 8.8.8.8"[:19], "", "bob@example.com"]
    found = find_pii(texts)
    scores = pii_scores(texts, found)
    assert scores["pii_email"].tolist() == [1, 0, 1] and scores["pii_phone"].tolist() == [0, 0, 0]
    np.testing.assert_allclose(scores["pii_density"], [1.0, 0, 1000 / 15])


PIECES = st.one_of(
    st.sampled_from([value for values in PLANTED.values() for value in values]),
    st.sampled_from([*CLEAN, "Tel", "CPF ", "IP ", "<EMAIL>", "<", ">", "@", "x", "0", "+", "(", ")", "/", ":", "::"]),
    st.text(max_size=5),
    st.text("0123456789 -./()@:+aABC<>", max_size=12),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.lists(PIECES, max_size=12).map(" ".join)


@settings(max_examples=600, deadline=None)
@given(st.lists(TEXTS, max_size=4))
@example(["a@b.coma@b.com", "bob@example.com-212-555-0143", "4111111111111111/4111111111111111"])
def test_masked_text_has_nothing_left_and_spans_do_not_overlap(texts):
    found = find_pii(texts)
    once = masked(texts, found)
    assert masked(once, find_pii(once)) == once
    for row in range(len(texts)):
        spans = sorted(
            (int(start), int(end))
            for places in found.values()
            for where, start, end, _ in zip(*places, strict=True)
            if where == row
        )
        assert all(0 <= start < end <= len(texts[row]) for start, end in spans)
        assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(["bob@example.com", "4111 1111 1111 1111"]))
def test_offsets_count_characters(before, behind, value):
    text = f"{before} {value} {behind}"
    found = [
        spans for spans in find_pii([text]).values() if value in [text[a:b] for _, a, b, _ in zip(*spans, strict=True)]
    ]
    clean = not any(letter.isdigit() or letter in "@+" for letter in before[-3:] + behind[:3])
    assert found or not clean


def test_surrogates_and_nulls():
    text = "\ud800\0 bob@example.com \udfff\0 4111 1111 1111 1111"
    assert found_in(text) == {"email": ["bob@example.com"], "card": ["4111 1111 1111 1111"]}


# Attacks: what costs time must cost little


@pytest.mark.parametrize(
    "unit",
    [
        "1 ",
        "1",
        "a@",
        "a.",
        "@",
        "20ab:",
        "(1)",
        "+1 ",
        "1.1.1.",
        "A1",
        "DE89 ",
        "x@y.",
        "0171/",
        "11A11A111A",
        ":",
        "ABCDE1234",
    ],
)
def test_no_text_is_slow(unit):
    """Half a megabyte of what each pattern likes to begin with: a quadratic search would take minutes."""
    text = unit * (400_000 // len(unit))
    spans = find_pii([text])
    assert sum(places.row.size for places in spans.values()) < 100_000


# Checksums against numbers computed by hand elsewhere


def test_a_wrong_digit_is_found():
    """Luhn, Verhoeff and mod 97 catch every single wrong digit; Verhoeff also every swap of neighbours."""
    for check, digits in ((checksums.luhn, "4111111111111111"), (checksums.verhoeff, "234123412346")):
        assert check(digits)
        for place in range(len(digits)):
            for digit in "0123456789":
                changed = digits[:place] + digit + digits[place + 1 :]
                assert check(changed) == (changed == digits)
    for place in range(11):
        swapped = list("234123412346")
        swapped[place : place + 2] = swapped[place : place + 2][::-1]
        assert checksums.verhoeff("".join(swapped)) == ("".join(swapped) == "234123412346")
    assert checksums.verhoeff("2363") and not checksums.verhoeff("2364")


@pytest.mark.parametrize(
    ("check", "size", "share"),
    [
        (checksums.luhn, 16, 0.1),
        (checksums.verhoeff, 12, 0.1),
        (checksums.nif_portugal, 9, 0.1),
        (checksums.thai_id, 13, 0.1),
        (checksums.cpf, 11, 0.01),
        (checksums.steuer_id, 11, 0.004),
    ],
)
def test_how_many_random_numbers_pass(check, size, share):
    random_digits = random.Random(7)
    passed = sum(check(f"{random_digits.randrange(10**size):0{size}}") for _ in range(20_000))
    assert passed < 20_000 * share * 1.3 + 10 and passed > 20_000 * share * 0.5


def test_spans_have_the_shape_of_the_contract():
    for spans in find_pii(["bob@example.com"]).values():
        assert isinstance(spans, Spans)
        assert [column.dtype for column in spans] == [np.int64, np.int64, np.int64, np.float64]
    assert len({kind.name for kind in KINDS}) == len(NAMES)

"""Bytes of pages in the encodings they are in, whatever their labels say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.extract import decode_html

RUSSIAN = "Старая мельница стоит на берегу уже больше двухсот лет."
JAPANESE = "駅前の古い喫茶店は今年の春に閉店することになりました。"
FRENCH = "Les élèves ont déjà mangé à l’école : “voilà” – 5 €."


@pytest.mark.parametrize(
    ("text", "encoding", "header", "meta"),
    [
        (FRENCH, "utf-8", None, ""),
        (FRENCH, "utf-8", "iso-8859-1", '<meta charset="windows-1252">'),  # valid UTF-8 wins
        (FRENCH, "cp1252", None, ""),
        (FRENCH, "cp1252", "utf-8", ""),  # a wrong header does not
        (FRENCH, "cp1252", "ISO-8859-1", ""),  # the web's latin-1 is windows-1252
        (RUSSIAN, "cp1251", "windows-1251", ""),
        (RUSSIAN, "koi8-r", None, '<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">'),
        (RUSSIAN, "cp1251", "utf-8", "<meta charset=windows-1251>"),
        (JAPANESE, "shift_jis", None, '<meta charset="Shift_JIS">'),
        (JAPANESE, "euc-jp", "euc-jp", ""),
        (JAPANESE, "iso-2022-jp", "iso-2022-jp", ""),
        (JAPANESE, "gb18030", "gb2312", ""),
        (JAPANESE, "utf-16-le", None, "<html>"),
        (FRENCH, "utf-16-be", "utf-8", "<html><head></head><body>"),
        (RUSSIAN, "cp1251", None, '<?xml version="1.0" encoding="windows-1251"?>'),
    ],
)
def test_encodings(text, encoding, header, meta):
    page = f"{meta}<p>{text}</p>"
    assert decode_html(page.encode(encoding), header) == page


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_byte_order_mark_wins(mark):
    assert decode_html(FRENCH.encode(mark), "koi8-r") == FRENCH


def test_a_few_faults_do_not_make_utf8_something_else():
    content = (RUSSIAN * 20).encode() + b"\x93quoted\x94" + (RUSSIAN * 20).encode()
    assert decode_html(content, "windows-1251") == f"{RUSSIAN * 20}\ufffdquoted\ufffd{RUSSIAN * 20}"


@pytest.mark.parametrize(
    "label", ["", "nonsense", "base64", "rot13", "utf-7", "idna", "\x00", "x" * 5000, "undefined", "mbcs"]
)
def test_labels_that_mean_nothing(label):
    assert decode_html(FRENCH.encode("cp1252"), label) == FRENCH


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=20)))
def test_never_raises(content, header):
    assert isinstance(decode_html(content, header), str)
    assert isinstance(decode_html(b'<meta charset="' + content + b'">' + content, header), str)

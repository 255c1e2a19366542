"""The normal form of URLs: what is one page and what is not, and that a key is its own key."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.curation import survivors
from llama3_jax.curation.urls import normal_form, url_keys

PAGE = "https://example.com/a/B?q=1&r=x"

SAME = [
    "HTTPS://Example.COM/a/B?q=1&r=x",
    "http://example.com/a/B?q=1&r=x",
    "http://example.com:80/a/B?q=1&r=x",
    "https://example.com:443/a/B?q=1&r=x",
    "https://example.com./a/B?q=1&r=x",
    "https://example.com/a/B/?q=1&r=x",
    "https://example.com/a/B?q=1&r=x#part-2",
    "https://example.com/a/B?r=x&q=1",
    "https://example.com/a/B?q=1&&r=x&",
    "https://example.com/a/B?utm_source=mail&q=1&r=x&UTM_medium=y",
    "https://example.com/a/B?q=1&fbclid=abc&r=x&gclid=1&PHPSESSID=7",
    "https://example.com/a/B;jsessionid=99?q=1&r=x",
    "https://example.com/%61/B?q=%31&r=x",
    "  https://example.com/a/B?q=1&r=x\n",
]
OTHER = [
    "https://www.example.com/a/B?q=1&r=x",
    "https://example.com/a/b?q=1&r=x",
    "https://example.com:8080/a/B?q=1&r=x",
    "https://example.com/a/B?q=2&r=x",
    "https://example.com/a/B?q=1",
    "https://example.com/a%2FB?q=1&r=x",
    "https://example.com/a/B?q=1&r=x#!/page/2",
    "ftp://example.com/a/B?q=1&r=x",
    "//example.com/a/B?q=1&r=x",
]


@pytest.mark.parametrize("url", SAME)
def test_one_page(url):
    assert normal_form(url) == PAGE
    assert url_keys([url]).hash == url_keys([PAGE]).hash


@pytest.mark.parametrize("url", OTHER)
def test_other_pages(url):
    assert normal_form(url) != PAGE
    assert url_keys([url]).hash != url_keys([PAGE]).hash


def test_further_forms():
    assert normal_form("http://a.org") == normal_form("https://A.org:443/?#x") == "https://a.org"
    assert (
        normal_form("http://a.org/été ") == normal_form("http://a.org/%c3%a9t%C3%A9") == "https://a.org/%C3%A9t%C3%A9"
    )
    assert normal_form("http://a.org/100%") == "https://a.org/100%25"
    assert normal_form("http://a.org/?b=2&a=1&b=1") == "https://a.org?a=1&b=2&b=1"
    assert normal_form("http://[::1]:80/x") == "https://[::1]/x"
    assert normal_form("mailto:Some@One ") == "mailto:Some@One"
    assert normal_form("http://a.org/utm_source?xutm_source=1") == "https://a.org/utm_source?xutm_source=1"


PIECES = [
    "http:",
    "HTTPS:",
    "//",
    "/",
    "a.B",
    ".",
    ":80",
    ":443",
    ":",
    "@",
    "?",
    "&",
    "=",
    "#",
    "!",
    "%",
    "%4",
    "%41",
    "%2f",
]
PIECES += ["%25", "é", "İ", " ", "utm_x", ";jsessionid=", "JSESSIONID", "q", "\ud800", "\x00", "[", "]", "\u2028"]


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text())
@example("http://a%%34%31")
@example("//a:80.:443/;jsessionid=;jsessionid=//")
def test_a_key_is_its_own_key(url):
    for text in (url, "http://" + url):
        assert normal_form(normal_form(text)) == normal_form(text)


def test_documents_without_urls_are_not_one_page():
    keys = url_keys(["", "http://a.org", " ", "https://a.org/"])
    assert keys.row.tolist() == [1, 3] and keys.hash[0] == keys.hash[1]
    assert not len(url_keys([]).row)


@settings(max_examples=30)
@given(st.permutations(range(5)))
def test_the_newest_page_stays(order):
    urls = ["http://a.org/x", "https://a.org/x/", "https://a.org/x#y", "https://b.org", "http://a.org/x?utm_id=1"]
    dates = np.array([survivors.NO_DATE, 1_700_000_000, 1_700_000_000, survivors.NO_DATE, 1_600_000_000])
    number = np.array(order)
    keys = url_keys([urls[index] for index in order])
    stays = survivors.survivors(keys.hash, ~dates[number[keys.row]], number[keys.row])
    assert sorted(number[keys.row][stays].tolist()) == [1, 3]

"""Lists of hosts and URLs: what each form of entry covers, which of several wins, and how a URL is read."""

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.domains import SAMPLE, DomainLists, ListError, Match, normalise_host, split_url


def lists(*lines: str) -> DomainLists:
    return DomainLists.parse((f"list:{number}", line) for number, line in enumerate(lines, 1))


def category(found: DomainLists, url: str) -> str:
    match = found.match(url)
    assert found.scores([url])["domain_category"].tolist() == [match.category if match else ""]
    assert found.scores([url])["domain_entry"].tolist() == [match.entry if match else ""]
    return match.category if match else ""


@pytest.mark.parametrize(
    ("entry", "covered", "left"),
    [
        (
            ".bad.example",
            ["http://bad.example", "https://www.bad.example/x", "//a.b.bad.example:80/", "http://BAD.example./"],
            ["http://notbad.example/", "http://bad.example.org/", "http://example/", "http://x.test/bad.example/"],
        ),
        ("www.bad.example", ["http://www.bad.example/"], ["http://bad.example/", "http://a.www.bad.example/"]),
        (
            "bad.example/forum/",
            ["http://bad.example/forum/1", "https://bad.example:8080/forum/"],
            [
                "http://bad.example/forum",
                "http://bad.example/Forum/",
                "http://www.bad.example/forum/",
                "http://bad.example/",
            ],
        ),
        ("http://bad.example/?q=", ["https://bad.example/?q=1"], ["https://bad.example/q=1"]),
        (r"~/people/\d+$", ["http://x.test/people/12"], ["http://x.test/people/x", "http://x.test/people/12/"]),
        (".bücher.example", ["http://www.xn--bcher-kva.example/", "http://BÜCHER.example"], ["http://bucher.example"]),
        (".xn--bcher-kva.example", ["http://bücher.example/", "http://b%C3%BCcher.example/"], []),
        ("192.0.2.7", ["http://192.0.2.7:8000/x"], ["http://192.0.2.71/"]),
        ("[2001:db8::1]", ["http://[2001:DB8::1]:80/"], ["http://[2001:db8::2]/"]),
        (".co.example", ["http://any.shop.co.example"], ["http://co.example.org"]),
    ],
)
def test_what_an_entry_covers(entry, covered, left):
    found = lists(f"adult {entry}")
    assert [category(found, url) for url in covered] == ["adult"] * len(covered)
    assert [category(found, url) for url in left] == [""] * len(left)


def test_users_cannot_pose_as_hosts():
    found = lists("harmful .bad.example")
    assert category(found, "http://good.example@bad.example/") == "harmful"
    assert category(found, "http://bad.example@good.example/") == ""
    assert category(found, "http://u:p@bad.example:99/") == "harmful"
    assert category(found, "http://good.example/@bad.example/") == ""
    assert category(found, "http://good.example?@bad.example/") == ""
    assert category(found, "http://good.example#@bad.example/") == ""


def test_the_most_specific_entry_wins():
    found = lists(
        "pattern ~example",
        "far .example",
        "near .b.example",
        "host a.b.example",
        "short a.b.example/x",
        "long a.b.example/x/y",
    )
    expected = {"a.b.example/x/y/z": "long", "a.b.example/x": "short", "a.b.example/": "host", "c.b.example": "near"}
    expected |= {"c.example": "far", "example.org": "pattern", "x.test": ""}
    assert {url: category(found, "http://" + url) for url in expected} == expected
    assert category(lists("first .a.example", "second .a.example"), "http://a.example") == "first"
    assert category(lists("first a.example/x", "second a.example/x"), "http://a.example/x") == "first"


def test_the_rest_of_a_host_with_a_prefix_is_matched_as_usual():
    found = lists("malware a.example/x", "adult .a.example", "pii ~/y")
    assert [category(found, f"http://a.example/{path}") for path in ("x1", "y")] == ["malware", "adult"]
    found = lists("malware a.example/x", "pii ~/y")
    assert [category(found, f"http://a.example/{path}") for path in ("x1", "y", "z")] == ["malware", "pii", ""]


def test_comments_columns_and_marks():
    found = lists("\ufeff# comment", "", "  ", "adult\t.a.example  # why", "pii  ~/#/x", "adult .b.example#c")
    assert category(found, "http://a.example") == "adult"
    assert category(found, "http://b.example") == "adult"


@pytest.mark.parametrize(
    "line", ["alone", "adult .", "adult a b", "adult .a.example/x", "adult ~(", "adult /x", "adult http://"]
)
def test_lines_that_say_nothing_are_named(line):
    with pytest.raises(ListError, match="list:2: "):
        lists("adult .a.example", line)


def test_lists_are_files_at_any_url(tmp_path):
    (tmp_path / "a.txt").write_text("adult .a.example\n", encoding="utf-8")
    fsspec.filesystem("memory").pipe("/lists/b.txt", b"pii .a.example\npii .b.example\n")
    found = DomainLists.load([tmp_path / "a.txt", "memory://lists/b.txt"])
    assert [category(found, f"http://{host}.example") for host in "ab"] == ["adult", "pii"]
    (tmp_path / "a.txt").write_text("\nadult\n")
    with pytest.raises(ListError, match=r"a.txt:2: a category and an entry"):
        DomainLists.load([tmp_path / "a.txt"])


def test_the_sample_drops_planted_sites():
    found = DomainLists.load([SAMPLE])
    planted = {
        "http://www.adult.example/": "adult",
        "http://health.adult.example/": "allow",
        "http://harm.test/x": "harmful",
        "http://www.harm.test/": "",
        "http://files.test/drop/x.exe": "malware",
        "http://files.test/": "",
        "http://me.people-search.test": "pii",
        "http://directory.example/person/7": "pii",
        "http://anything.test/nsfw/7": "adult",
        "http://example.org/": "",
        "": "",
        "no url": "",
        "mailto:bob@harm.test": "",
    }
    assert found.scores(list(planted))["domain_category"].tolist() == list(planted.values())
    assert all(len(column) == 0 for column in found.scores([]).values())


def test_hosts():
    assert [normalise_host(host) for host in ("WWW.Example.ORG.", "straße.example", "%77ww.test", "a。b.test")] == [
        "www.example.org",
        "strasse.example",
        "www.test",
        "a.b.test",
    ]
    assert normalise_host("ü" * 80) == "ü" * 80  # too long for IDNA
    assert split_url("HTTPS://u@EXAMPLE.org:443/A?b#c") == ("example.org", "/A?b")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.text(max_size=10))
def test_no_url_is_an_error(rest, host):
    found = lists("adult .a.example", "pii b.example/x", "malware ~q")
    urls = [rest, "http://" + rest, f"http://{host}.a.example{rest}", f"//{host}@b.example/x{rest}"]
    matches = [found.match(url) for url in urls]
    assert found.scores(urls)["domain_category"].tolist() == [(match or Match("", "")).category for match in matches]

"""Cited URLs and the training examples made of them."""

import gzip
import hashlib

import numpy as np
import pytest

from llama3_jax.curation.classify.cited_urls import CitedUrls, build_cited_urls, host_of, page_of
from llama3_jax.curation.classify.externallinks import read_external_links
from llama3_jax.curation.classify.held_out import area_under_curve
from llama3_jax.curation.classify.linear import LinearConfig, train
from llama3_jax.curation.classify.wiki_references import ReferenceConfig, choose_examples


@pytest.mark.parametrize(
    "url",
    [
        "http://www.example.org/a/b?x=1",
        "https://example.org/a/b/?x=1",
        "HTTPS://EXAMPLE.org:443/a/b?x=1#part",
        "//example.org/a/b?x=1&utm_source=y",
        "https://user:secret@example.org./%61/b?x=1",
        "https://web.archive.org/web/20100101000000/http://example.org/a/b?x=1",
        "https://web.archive.org/web/2010id_/example.org/a/b?x=1",
        " http://example.org/a/b?x=1&gclid=5\n",
    ],
)
def test_spellings_of_one_address(url):
    assert page_of(url) == "example.org/a/b?x=1"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://example.org/", "example.org"),
        ("http://www.example.org?b=2&a=1", "example.org?a=1&b=2"),
        ("http://example.org:8080/", "example.org:8080"),
        ("http://example.org/A", "example.org/A"),
        ("http://example.org/é%2f", "example.org/%C3%A9%2F"),
        ("http://example.org/?a=b//c", "example.org?a=b//c"),
        ("http://example.org/#!/x", "example.org#!/x"),
        ("https://web.archive.org/help", "web.archive.org/help"),
        ("http://[2001:db8::1]/x", "[2001:db8::1]/x"),
        ("mailto:me@example.org", ""),
        ("ftp://example.org/x", ""),
        ("http:///x", ""),
        ("", ""),
    ],
)
def test_normal_forms(url, normal):
    assert page_of(url) == normal
    assert normal.startswith(host_of(normal)) and not set("/?#") & set(host_of(normal))


def make_urls(count: int) -> list[str]:
    return [f"https://host{number % 97}.example/page{number}" for number in range(count)]


@pytest.mark.parametrize("num_parts", [1, 4, 64])
def test_the_set_of_cited_urls(tmp_path, num_parts):
    urls = make_urls(1000)
    cited = build_cited_urls([*urls, *urls[:10], "mailto:x@y"], tmp_path / "cited", num_parts=num_parts)
    assert cited.counts == {"links": 1011, "pages": 1010, "urls": 1000, "hosts": 97}
    pages = [page_of(url) for url in urls]
    assert cited.has_page(pages).all()
    others = ["host1.example/other", "elsewhere.example/page1", ""]
    assert cited.has_page(others).tolist() == [False] * 3
    assert cited.has_host(others).tolist() == [True, False, False]
    assert sorted(path.name for path in (tmp_path / "cited").iterdir()) == ["counts.json", "hosts.u64", "urls.u64"]


def test_the_files_depend_on_the_set_alone(tmp_path):
    urls = make_urls(500)
    build_cited_urls(urls, tmp_path / "a", num_parts=2)
    build_cited_urls(urls[::-1], tmp_path / "b", num_parts=32)
    for name in ("urls.u64", "hosts.u64", "counts.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    keys = np.fromfile(tmp_path / "a" / "urls.u64", "<u8")
    assert keys.size == 500 and (keys[1:] > keys[:-1]).all()


def test_an_unfinished_folder_is_begun_anew_and_a_finished_one_kept(tmp_path):
    (tmp_path / "cited.unfinished").mkdir()
    (tmp_path / "cited.unfinished" / "urls.part0").write_bytes(b"12345678")
    assert build_cited_urls(["http://a.example/"], tmp_path / "cited", num_parts=1).counts["urls"] == 1
    with pytest.raises(FileExistsError):
        build_cited_urls([], tmp_path / "cited")
    with pytest.raises(ValueError, match="num_parts"):
        build_cited_urls([], tmp_path / "other", num_parts=3)


def test_nothing_cited(tmp_path):
    cited = build_cited_urls([], tmp_path / "cited")
    assert CitedUrls(tmp_path / "cited").counts["links"] == 0
    assert cited.has_page(["a.example/"]).tolist() == [False]


@pytest.fixture
def corpus(tmp_path):
    """3,000 pages of 300 hosts, of which a tenth of the pages on a third of the hosts are cited."""
    urls = [f"https://h{number % 300}.example/p{number}" for number in range(3000)] + ["", "mailto:x"]
    ids = [hashlib.blake2b(url.encode(), digest_size=16).digest() for url in urls]
    cited = build_cited_urls([url for i, url in enumerate(urls[:3000]) if i % 3 == 0 and i // 300 == 4], tmp_path / "c")
    return ids, urls, cited


def chosen(corpus, **settings):
    ids, urls, cited = corpus
    found = choose_examples(ids, urls, cited, ReferenceConfig(**settings))
    assert (np.diff(found.rows) > 0).all()
    hosts = np.array([host_of(page_of(urls[row])) for row in found.rows])
    assert (hosts != "").all()
    return found, hosts


def test_examples_are_balanced_and_of_many_hosts(corpus):
    found, hosts = chosen(corpus, held_out_share=0.3)
    for split in (False, True):
        part = found.is_held_out == split
        positive, negative = part & found.is_cited, part & ~found.is_cited
        assert positive.sum() == negative.sum() > 10
        for side in (positive, negative):
            assert np.unique(hosts[side]).size == side.sum()
    assert not set(hosts[found.is_held_out]) & set(hosts[~found.is_held_out])
    urls = corpus[1]
    assert all((row % 3 == 0 and row // 300 == 4) == is_cited for row, is_cited in zip(*found[:2], strict=True))
    assert any(urls)


def test_a_classifier_learns_from_a_dump_what_cited_pages_are_like(tmp_path):
    """From the dump to scores of pages on hosts that were held out; each page also names its host, to no avail."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(400)])
    styles = {False: words[:300], True: words[100:]}
    is_good = np.arange(1500) % 2 == 0
    urls = [f"https://h{number // 3}.example/p{number}" for number in range(1500)]
    texts = [f"h{n // 3} example {' '.join(rng.choice(styles[bool(good)], 40))}" for n, good in enumerate(is_good)]
    rows = ",".join(f"({n},1,'https://example.h{n // 3}.','/p{n}')" for n in np.flatnonzero(is_good).tolist())
    columns = "(`el_id`,`el_from`,`el_to_domain_index`,`el_to_path`)"
    dump = tmp_path / "externallinks.sql.gz"
    dump.write_bytes(gzip.compress(f"INSERT INTO `externallinks` {columns} VALUES {rows};\n".encode()))
    cited = build_cited_urls(read_external_links(str(dump)), tmp_path / "cited")
    ids = [hashlib.blake2b(url.encode(), digest_size=16).digest() for url in urls]
    found = choose_examples(ids, urls, cited, ReferenceConfig(held_out_share=0.3))
    known, held_out = found.rows[~found.is_held_out], found.rows[found.is_held_out]
    assert np.array_equal(found.is_cited, is_good[found.rows]) and known.size > 300 and held_out.size > 100
    labels = np.where(is_good, "cited", "other")
    model = train([texts[row] for row in known], labels[known].tolist(), LinearConfig())
    scores = model.scores([texts[row] for row in held_out])[:, 0]
    assert area_under_curve(scores, is_good[held_out]) > 0.95


def test_more_of_one_host_and_more_negatives(corpus):
    found, hosts = chosen(corpus, max_per_host=3, negatives_per_positive=2.0, held_out_share=0.0)
    assert found.is_cited.sum() * 2 == (~found.is_cited).sum() > 0
    counts = np.unique(hosts[~found.is_cited], return_counts=True)[1]
    assert counts.max() <= 3 and counts.max() > 1
    assert not found.is_held_out.any()


def test_cited_hosts_can_be_kept_out_of_the_negatives(corpus):
    found, hosts = chosen(corpus, from_cited_hosts=False)
    assert not set(hosts[found.is_cited]) & set(hosts[~found.is_cited])
    found, hosts = chosen(corpus)
    assert set(hosts[found.is_cited]) & set(hosts[~found.is_cited])


def test_pages_of_cited_hosts_can_be_the_positives(corpus):
    found, _ = chosen(corpus, match="host", max_per_host=100)
    assert found.is_cited.sum() > 500
    assert all((row % 3 == 0) == is_cited for row, is_cited in zip(*found[:2], strict=True))


def test_examples_do_not_depend_on_the_order(corpus):
    ids, urls, cited = corpus
    config = ReferenceConfig(max_per_host=2)
    forwards = choose_examples(ids, urls, cited, config)
    backwards = choose_examples(ids[::-1], urls[::-1], cited, config)
    last = len(ids) - 1
    assert {(row, *rest) for row, *rest in zip(*map(np.ndarray.tolist, forwards), strict=True)} == {
        (last - row, *rest) for row, *rest in zip(*map(np.ndarray.tolist, backwards), strict=True)
    }
    other = choose_examples(ids, urls, cited, ReferenceConfig(max_per_host=2, seed=1))
    assert not np.array_equal(other.rows, forwards.rows)


@pytest.mark.parametrize(
    "settings",
    [{"match": "domain"}, {"max_per_host": 0}, {"negatives_per_positive": 0}, {"held_out_share": 1.0}],
)
def test_a_senseless_config_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ReferenceConfig(**settings)

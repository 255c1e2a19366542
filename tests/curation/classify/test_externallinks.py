"""Dumps of external links: both schemas, escapes, rows over any chunk border, and dumps that are spoilt."""

import gzip
import io
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.classify import externallinks
from llama3_jax.curation.classify.externallinks import join_url, parse_external_links, read_external_links

OLD = rb"""-- MySQL dump 10.16
DROP TABLE IF EXISTS `externallinks`;
CREATE TABLE `externallinks` (
  `el_id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `el_from` int(8) unsigned NOT NULL DEFAULT 0,
  `el_to` blob NOT NULL,
  `el_index` blob NOT NULL,
  `el_index_60` varbinary(60) NOT NULL,
  PRIMARY KEY (`el_id`),
  KEY `el_from` (`el_from`,`el_to`(40))
) ENGINE=InnoDB DEFAULT CHARSET=binary;
/*!40000 ALTER TABLE `externallinks` DISABLE KEYS */;
INSERT INTO `externallinks` VALUES (1,7,'http://a.example/x','http://example.a./x','http://example.a./x'),(2,7,'http://b.example/it\'s_(1),(2);?q=\"\\\\\"','i','i');
INSERT INTO `externallinks` VALUES (3,-8,'https://c.example/caf~\n','i',NULL),(4,9,'','i','i'),(5,9,'//d.example/''quoted''','i','');
/*!40000 ALTER TABLE `externallinks` ENABLE KEYS */;
UNLOCK TABLES;
""".replace(b"~", "é".encode())
OLD_LINKS = [
    "http://a.example/x",
    'http://b.example/it\'s_(1),(2);?q="\\\\"',
    "https://c.example/café\n",
    "//d.example/'quoted'",
]
NEW = rb"""CREATE TABLE `externallinks` (
  `el_id` bigint(20) unsigned NOT NULL AUTO_INCREMENT,
  `el_from` int(10) unsigned NOT NULL DEFAULT 0,
  `el_to_domain_index` varbinary(255) NOT NULL DEFAULT '',
  `el_to_path` blob DEFAULT NULL,
  PRIMARY KEY (`el_id`)
) ENGINE=InnoDB;
INSERT INTO `externallinks` VALUES (1,2,'https://org.example.www.','/page?a=1&b=\'2\''),
(2,2,_binary 'http://com.example.:8080',_binary '/'),(3,4,'https://V4.192.0.2.1.',NULL),(4,4,'mailto:com.example@me','');
INSERT INTO `other` VALUES (1,2,'https://org.never.','/');
INSERT INTO `externallinks` VALUES (9,9,0x68747470733a2f2f6f72672e6865782e,0x2f68);
"""
NEW_LINKS = [
    "https://www.example.org/page?a=1&b='2'",
    "http://example.com:8080/",
    "https://192.0.2.1",
    "https://hex.org/h",
]
DUMPS = pytest.mark.parametrize(("dump", "links"), [(OLD, OLD_LINKS), (NEW, NEW_LINKS)])


@DUMPS
@pytest.mark.parametrize("compress", [False, True])
def test_both_schemas(tmp_path, dump, links, compress):
    path = tmp_path / ("links.sql.gz" if compress else "links.sql")
    path.write_bytes(gzip.compress(dump) if compress else dump)
    assert list(read_external_links(str(path))) == links


@DUMPS
@pytest.mark.parametrize("size", [600, 777, 1024])
def test_rows_may_lie_over_the_border_of_chunks(monkeypatch, dump, links, size):
    monkeypatch.setattr(externallinks, "CHUNK_BYTES", size)
    assert list(parse_external_links(io.BytesIO(dump), "dump")) == links


def escape(value: str) -> bytes:
    table = {"\\": "\\\\", "'": "\\'", "\0": "\\0", "\n": "\\n", "\r": "\\r", '"': '\\"', "\x1a": "\\Z"}
    return "".join(table.get(character, character) for character in value).encode()


class Trickle(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(37)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=8))
def test_any_link_is_read_back(links):
    rows = b",".join(b"(1,2,'%s','x','y')" % escape(link) for link in links)
    head = OLD[: OLD.index(b"INSERT")]
    dump = head + b"INSERT INTO `externallinks` VALUES " + rows + b";\n"
    assert list(parse_external_links(Trickle(dump), "dump")) == links


def test_columns_may_stand_in_the_statement():
    dump = b"INSERT INTO `externallinks` (`el_from`, `el_to`) VALUES (1,'http://x.example/');\n"
    assert list(parse_external_links(io.BytesIO(dump), "dump")) == ["http://x.example/"]


def test_memory_holds_no_more_than_chunks(monkeypatch):
    monkeypatch.setattr(externallinks, "CHUNK_BYTES", 1024)
    head, row = OLD[: OLD.index(b"INSERT")], b"(1,2,'http://a.example/','i','i')"
    largest = 0

    class Endless(io.RawIOBase):
        left = 3000

        def read(self, size=-1):
            nonlocal largest
            largest = max(largest, size)
            if self.left == 3000:
                self.left -= 1
                return head + b"INSERT INTO `externallinks` VALUES " + row
            self.left -= 1
            return b"," + row if self.left >= 0 else b";" if self.left == -1 else b""

    assert sum(1 for _ in parse_external_links(cast(BinaryIO, Endless()), "dump")) == 3000
    assert largest == 1024


@pytest.mark.parametrize(
    ("dump", "message"),
    [
        (b"", "no rows"),
        (OLD[: OLD.index(b"caf")], "no end of the row"),
        (b"INSERT INTO `externallinks` (`el_from`) VALUES (1);", "no link"),
        (OLD[: OLD.index(b"INSERT")] + b"INSERT INTO `externallinks` VALUES (1,2);\n", "no end of the row"),
    ],
)
def test_a_spoilt_dump_is_refused(dump, message):
    with pytest.raises(ValueError, match=message):
        list(parse_external_links(io.BytesIO(dump), "dump"))


def test_hosts_are_turned_round():
    assert join_url("https://V6.20.1.db8.0.0.0.0.1.", "/x") == "https://[20:1:db8:0:0:0:0:1]/x"
    assert join_url("https://", "/x") == join_url("", "") == join_url("mailto:x", "") == ""

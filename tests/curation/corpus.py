"""A small web for tests of the pipeline: real prose in pages, with every kind of duplicate and some that are broken."""

import gzip
import json
import random
import textwrap
from pydoc_data import topics

HOSTS = ("docs.test", "blog.test", "news.test")
BOILERPLATE = "All of this site is run by volunteers who answer letters on Thursdays."


def paragraphs():
    """Paragraphs of prose of more than 300 characters, in a fixed order: such as no rule on quality drops."""
    for topic in sorted(topics.topics):
        for paragraph in topics.topics[topic].split("\n\n"):
            text = " ".join(paragraph.split())
            is_prose = text[-1:] == "." and text[0] != "*" and not set(text) & set("{}")
            letters = sum(letter.isalpha() or letter == " " for letter in text)
            if len(text) > 300 and is_prose and letters > 0.93 * len(text):
                yield text


def articles(count):
    """Texts of three paragraphs each."""
    found = list(dict.fromkeys(paragraphs()))
    rng = random.Random(0)
    return [rng.sample(found, 3) for _ in range(count)]


def page(title, body, boilerplate=True):
    blocks = "".join(f"<p>{text}</p>" for text in body)
    foot = f"<p>{BOILERPLATE}</p>" if boilerplate else ""
    navigation = "<nav><a href=/>Home</a> <a href=/about>About</a></nav>"
    return f"<html><head><title>{title}</title></head><body>{navigation}<article>{blocks}{foot}</article></body></html>"


def records(count=60):
    """JSON-able records: `count` articles, and beside them copies, versions, near-copies and wrecks."""
    rows = []
    for i, body in enumerate(articles(count)):
        url, date = f"https://{HOSTS[i % 3]}/{i}", f"2024-01-{1 + i % 28:02}T00:00:00Z"
        rows.append({"url": url, "date": date, "html": page(f"Article {i}", body, boilerplate=i % 2 == 0)})
        if i % 6 == 0:  # the same page again; an older version of it; a near-copy elsewhere
            rows.append(dict(rows[-1]))
            rows.append({**rows[-1], "date": "2020-01-01T00:00:00Z", "html": page(f"Old {i}", body[:2])})
            changed = [body[0], body[1], body[2] + " And that is all."]
            rows.append({"url": f"https://mirror.test/{i}", "date": None, "html": page(f"Mirror {i}", changed)})
    rows.append({"url": "https://docs.test/empty", "date": None, "html": "<html></html>"})
    rows.append(
        {"url": "https://docs.test/short", "date": None, "html": page("Short", ["Too little."], boilerplate=False)}
    )
    loop = textwrap.shorten(articles(1)[0][0], 150)
    rows.append({"url": "https://docs.test/loop", "date": None, "html": page("Loop", [loop] * 40)})
    return rows


def write_files(folder, num_files, seed=0):
    """The records in shuffled order over files of JSON lines, one line of them broken."""
    rows = [json.dumps(row) for row in records()] + ["{not json"]
    random.Random(seed).shuffle(rows)
    folder.mkdir(parents=True)
    for i in range(num_files):
        with gzip.open(folder / f"part-{i:03}.jsonl.gz", "wt") as file:
            file.writelines(f"{row}\n" for row in rows[i::num_files])
    return str(folder)

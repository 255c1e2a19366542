"""What the paper's pipeline is for, planted: bad sites, seven copies of a line, code and formulas, languages, kinds."""

import dataclasses
import json
import pathlib
import random
import sysconfig

import numpy as np
import pyarrow.parquet as pq
import pytest

from llama3_jax.curation import repeated_lines
from llama3_jax.curation.classify.language import LANGUAGE_TRAINING
from llama3_jax.curation.classify.linear import LinearConfig, train
from llama3_jax.curation.classify.ranking import RankingConfig
from llama3_jax.curation.curation_config import ModelEntry
from llama3_jax.curation.deduplicate import DedupConfig
from llama3_jax.curation.given import text_id
from llama3_jax.curation.heuristics.thresholds import DEFAULTS
from llama3_jax.curation.rules_config import RulesConfig
from llama3_jax.curation.selection import SelectionConfig
from tests.curation.corpus import articles
from tests.curation.heuristics.pages import MATH, PROSE
from tests.curation.test_pipeline import config, run

NO_RULES = RulesConfig(early={}, without=tuple(DEFAULTS), min_chars=1)


def write_pages(path, rows):
    """JSON lines of (URL, text)."""
    path.write_text("".join(json.dumps({"url": url, "date": None, "text": text}) + "\n" for url, text in rows))
    return str(path)


def curate(tmp_path, rows, name="out", **settings):
    """What is kept by URL, with its category; what each step counted; its results."""
    settings = config(tmp_path, write_pages(tmp_path / f"{name}.jsonl", rows), name, **settings)
    steps = run(settings)
    results = {name: step.results(settings.workdir) for name, step in steps.items()}
    totals = {name: result.total() for name, result in results.items()}
    text = pathlib.Path(settings.output) / "text"
    found = {
        row["url"]: {**row, "category": path.parent.name}
        for path in sorted(text.rglob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }
    return found, totals, results


def gibberish(language, seed, count=120):
    """Words of a language in no order, so that no two texts share n-grams."""
    rng = random.Random(f"{language} {seed}")
    return " ".join(rng.choices(PROSE[language].split(), k=count))


def test_planted_sites_are_dropped_before_anything_is_compared(tmp_path):
    prose = ["\n".join(body) for body in articles(8)]
    good = {f"https://site{i}.test/": text for i, text in enumerate(prose)}
    contact = "Write to the author at somebody@letters.test."
    good["https://letters.test/"] = "\n".join([gibberish("en", "letters", 300) + ".", contact])
    calls = "\n".join(f"Person {i}: +49 30 {1234567 + i}, person{i}@people.test" for i in range(40))
    planted = {
        "listed_domain": {"https://videos.adult.example/": prose[0], "https://files.test/drop/x": prose[1]},
        "adult_density": {"https://a.test/": "An nsfw adult video, porn and xxx. " * 30},
        "adult_url_words": {"https://porn-xxx.test/": prose[2]},
        "pii_density": {"https://b.test/": calls},
    }
    bad = {url: text for pages in planted.values() for url, text in pages.items()}
    found, totals, _ = curate(tmp_path, {**good, **bad}.items(), rules=RulesConfig(without=tuple(DEFAULTS)))
    assert found.keys() == good.keys()
    for reason, pages in planted.items():
        assert totals["early"][f"reason.{reason}"] == len(pages), reason
    assert totals["near-duplicates"]["dropped"] == 0, "copies on bad sites do not compete"
    assert "<EMAIL>" in found["https://letters.test/"]["text"] and "@" not in found["https://letters.test/"]["text"]


@pytest.mark.parametrize(("bucket", "stay"), [(30_000_000, 6), (6, 12), (4, 12)])
def test_lines_are_counted_within_buckets(tmp_path, monkeypatch, bucket, stay):
    """Twelve copies are more than six; in two buckets of six documents, or three of four, none is."""
    monkeypatch.setattr(repeated_lines, "BUCKET", bucket)
    line = "All rights reserved by the publisher."
    rows = [(f"https://site{i}.test/", f"{gibberish('en', i)}\n{line}\nEnd of {'x' * i}") for i in range(12)]
    found, *_ = curate(tmp_path, rows, rules=NO_RULES)
    assert len(found) == 12 and sum(line in row["text"] for row in found.values()) == stay


def test_a_line_that_two_rules_drop_is_counted_once(tmp_path):
    """Otherwise little seems to be left of a document, and it is dropped as empty."""
    rows = [
        (f"https://site{i}.test/", f"Home\n{' '.join(gibberish('en', i).split('.'))}.\nHome\nLast {'x' * i}\nHome")
        for i in range(12)
    ]
    rules = dataclasses.replace(NO_RULES, drop_c4_lines=True)
    found, totals, steps = curate(tmp_path, rows, rules=rules)
    left = {
        row["id"].hex(): row["chars"]
        for index in range(2)
        for row in steps["verdicts"].rows(index, "verdicts").to_pylist()
    }
    assert totals["lines"]["repeated"] == 36 and len(found) == 12
    for row in found.values():  # C4's lines are counted without their line breaks
        assert "Home" not in row["text"] and 0 <= left[row["id"]] - len(row["text"]) <= 4


def test_code_and_formulas_are_recalled_and_prose_is_not_taken_for_them(tmp_path):
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    sources = [path.read_text(encoding="utf-8") for path in sorted(library.glob("[a-h]*.py"))]
    code = {f"https://code.test/{i}": text for i, text in enumerate(sources) if 2000 < len(text) < 30_000}
    formulas = [line for line in MATH.strip().split("\n") if line]
    rng = random.Random(0)
    math = {
        f"https://math.test/{i}": "\n".join(f"{line} And case {rng.random()} of {i}." for line in formulas)
        for i in range(8)
    }
    prose = {f"https://prose.test/{i}": "\n".join(body) for i, body in enumerate(articles(8))}
    found, *_ = curate(tmp_path, {**code, **math, **prose}.items(), dedup=DedupConfig(verify=1.0), rules=NO_RULES)
    for pages, category in ((math, "math_reasoning"), (prose, "general")):
        assert [found[url]["category"] for url in pages] == [category] * len(pages)
    assert len(code) > 20 and np.mean([found[url]["category"] == "code" for url in code]) > 0.85


def test_languages_are_identified_deduplicated_and_ranked_each_by_itself(tmp_path):
    languages = ["de", "en", "fr", "hi"]
    samples = [(line, language) for language in languages for line in PROSE[language].strip().split("\n")]
    model = str(tmp_path / "languages.npz")
    train([text for text, _ in samples], [language for _, language in samples], LANGUAGE_TRAINING).save(model)
    line = "2024 © example.org"  # four times in each language
    rows, scores = {}, {}
    for place, language in enumerate(languages):
        for i in range(10):
            text = f"{gibberish(language, i)}\n{line}\n" if i < 4 else gibberish(language, i)
            rows[f"https://{language}.test/{i}"] = text
            scores[text] = 10 * place + i  # every page of a language is better than those of the ones before
        rows[f"https://{language}.mirror.test/"] = gibberish(language, 9)
    given = tmp_path / "scores.jsonl"
    given.write_text("".join(json.dumps({"id": text_id(t).hex(), "score": s}) + "\n" for t, s in scores.items()))
    common = {"language": None, "language_model": model, "rules": NO_RULES, "scores": {"quality": str(given)}}
    found, totals, _ = curate(tmp_path, rows.items(), "all", **common)
    assert totals["near-duplicates"]["dropped"] == len(languages)
    assert all(row["language"] in url for url, row in found.items())
    assert sum(line in row["text"] for row in found.values()) == 16
    together, *_ = curate(tmp_path, rows.items(), "together", dedup=DedupConfig(by_language=False), **common)
    assert sum(line in row["text"] for row in together.values()) == 6

    half = SelectionConfig(rank_by="quality", ranking=RankingConfig(share=0.5, shares={"hi": 0.2}))
    ranked, *_ = curate(tmp_path, rows.items(), "ranked", selection=half, **common)
    best = {
        language: sorted(scores[rows[url]] % 10 for url in ranked if f"/{language}." in url) for language in languages
    }
    assert best == {language: [5, 6, 7, 8, 9] for language in ("de", "en", "fr")} | {"hi": [8, 9]}


def test_shares_of_knowledge_are_moved_to_those_asked_for(tmp_path):
    kinds = {"arts": "painting music opera singer film stage", "science": "atom energy cell proof enzyme orbit"}
    rng = random.Random(0)
    rows = {
        f"https://{kind}.test/{i}": " ".join(rng.choices(words.split() + PROSE["en"].split()[:20], k=60))
        for kind, words in kinds.items()
        for i in range(150 if kind == "arts" else 50)
    }
    model = str(tmp_path / "kinds.npz")
    train(list(kinds.values()) * 8, list(kinds) * 8, LinearConfig()).save(model)
    common = {"rules": NO_RULES, "knowledge": model, "models": {"is_arts": ModelEntry(path=model, label="arts")}}
    share = lambda found: sum("arts" in url for url in found) / len(found)
    everything, *_ = curate(tmp_path, rows.items(), "all", **common)
    assert share(everything) == 0.75 and len(everything) == 200, "a model without a limit drops nothing"
    less, *_ = curate(tmp_path, rows.items(), "less", selection=SelectionConfig(shares={"arts": 0.4}), **common)
    assert share(less) == pytest.approx(0.4, abs=0.08) and sum("science" in url for url in less) == 50

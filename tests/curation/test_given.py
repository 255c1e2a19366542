"""Scores from elsewhere reach the documents with that text, and no other."""

import json

import numpy as np
import pytest

from llama3_jax.curation.given import read_given, text_id
from llama3_jax.curation.rules_config import RulesConfig
from tests.curation.corpus import write_files
from tests.curation.test_pipeline import config, kept, run


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_each_text_gets_its_own(tmp_path):
    texts = [f"text {i}" for i in range(500)]
    rows = [{"id": text_id(text).hex(), "score": i / 7} for i, text in enumerate(texts) if i % 3]
    found = read_given(write(tmp_path / "scores.jsonl", rows)).of([*texts, "another", ""])
    want = [i / 7 if i % 3 else np.nan for i in range(500)]
    np.testing.assert_array_equal(found, [*want, np.nan, np.nan])
    assert np.isnan(read_given(write(tmp_path / "none.jsonl", [])).of(["a"])).all()


@pytest.mark.parametrize(
    "rows,message",
    [
        ([{"id": "zz", "score": 1}], ":1: not an id and its score"),
        ([{"id": "00" * 16, "score": 1}, {"id": "00" * 16}], ":2: not an id and its score"),
        ([{"id": "00", "score": 1}], "no id of 32"),
        ([{"id": "00" * 16, "score": 1}, {"id": "00" * 16, "score": 2}], "has two scores"),
    ],
)
def test_files_that_say_nothing(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_given(write(tmp_path / "scores.jsonl", rows))


def test_a_limit_on_a_given_score(tmp_path):
    pages = write_files(tmp_path / "pages", 2)
    before = config(tmp_path, pages, "before")
    steps = run(before)
    documents = steps["documents"].results(before.workdir)
    texts = [row["text"] for index in range(2) for row in documents.rows(index, "documents").to_pylist()]
    good = {text for text in texts if len(text) % 2}
    scores = write(tmp_path / "s.jsonl", [{"id": text_id(text).hex(), "score": float(text in good)} for text in texts])
    bounds = {"quality": (0.5, None)}
    after = config(tmp_path, pages, "after", scores={"quality": scores}, rules=RulesConfig(bounds=bounds, early={}))
    dropped = run(after)["verdicts"].results(after.workdir).total()["reason.quality"]
    assert 0 < dropped < len(texts) and 0 < len(kept(after)) < len(kept(before))

"""Why a document lived or died: every attribute of it, and one sentence for what cannot be explained."""

import json

import pytest

from llama3_jax.curation.curation_config import CurationConfig, SourceEntry
from llama3_jax.curation.explain import explain
from llama3_jax.curation.features import read_scores
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.rules_config import RulesConfig
from llama3_jax.curation.runner import RunnerConfig, run_steps

TEXT = "A letter to the editor, who may answer at somebody@letters.test or not at all, as editors do. " * 3


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    rows = [{"url": f"https://site{i}.test/", "date": None, "text": f"{i} {TEXT}{i * 'x'}"} for i in range(40)]
    rows.append({"url": "https://www.adult.example.com/", "date": None, "text": "Short."})
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = CurationConfig(
        workdir=str(folder / "work"),
        output=str(folder / "out"),
        sources={"crawl": SourceEntry(paths=(str(folder / "pages.jsonl"),))},
        language="en",
        partitions=3,
        rules=RulesConfig(early={}),
        runner=RunnerConfig(workers=0),
    )
    steps = make_steps(config)
    run_steps(list(steps.values()), config.workdir, config.runner)
    documents = steps["documents"].results(config.workdir)
    ids = [row["id"].hex() for index in range(3) for row in documents.rows(index, "documents").to_pylist()]
    assert len(ids) == 41 and ids == sorted(ids)
    return config, steps, ids


def test_every_attribute_is_there(done):
    config, steps, ids = done
    inputs = {role: step.results(config.workdir) for role, step in steps["verdicts"].after.items()}
    scores = read_scores(inputs, steps["verdicts"].settings.features, 0)
    said = explain(steps, config.workdir, ids[0])
    assert len(scores) > 40 and all(f"\n  {name} " in said for name in scores)
    assert "masked    email 3" in said and "letter to the editor" in said


def test_the_first_digits_are_enough_where_one_document_has_them(done):
    config, steps, ids = done
    for identity in ids[0], ids[20], ids[-1]:
        assert explain(steps, config.workdir, identity[:9].upper()) == explain(steps, config.workdir, identity)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is not an id, 32 hexadecimal digits or the first of them"),
        ("no id", "'no id' is not an id"),
        ("0" * 33, "is not an id"),
        ("0" * 32, f"no document has the id {'0' * 32}$"),
        ("0" * 9, "no document has an id that begins with 000000000$"),
    ],
)
def test_ids_that_are_none(done, name, message):
    config, steps, _ = done
    with pytest.raises(ValueError, match=message):
        explain(steps, config.workdir, name)


def test_ids_that_begin_alike(done):
    config, steps, ids = done
    digits = [identity[0] for identity in ids]
    digit = max(digits, key=digits.count)
    with pytest.raises(ValueError, match=f"{digits.count(digit)} documents have ids that begin so: {digit}"):
        explain(steps, config.workdir, digit)


def test_what_has_not_been_run_is_not_explained(done, tmp_path):
    _, steps, ids = done
    with pytest.raises(ValueError, match="holds no whole run with these settings"):
        explain(steps, str(tmp_path / "elsewhere"), ids[0])

"""docs/curation.md, "Scores of a model": curate, label, train, predict, and curate again with the scores."""

import json

import pytest

from llama3_jax.curation.given import read_given
from llama3_jax.curation.labelling.labels import read_labels
from tests.curation.corpus import write_files
from tests.curation.labelling.scripted_judge import says, scripted_judge
from tests.data.windows_tokenizer import write_tokenizer
from tests.train.runs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections, on a config file


def likes_classes(page, before):
    return says(f"It speaks of classes or does not.\nScore: {5 if 'class' in page else 0}")


def test_from_pages_to_pages_that_a_model_finds_good(llama3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages = write_files(tmp_path / "crawl", 2)
    settings = [f"--config.sources.crawl.paths={pages}", "--config.language=en", "--config.runner.workers=0"]
    settings += ["--config.partitions=2", "--config.shuffle_parts=1", "--config.output_files=1"]
    status, out, _ = llama3("curate", f"--config={CONFIGS / 'curate_web.py'}", *settings)
    assert status == 0, out
    where = "--input=runs/curate/*/documents-*/documents"
    with scripted_judge(likes_classes) as (url, judge):
        label = [where, "--variant=quality", f"--url={url}", "--model=judge", "--output=runs/labels.jsonl"]
        status, out, err = llama3("label", *label)
    assert status == 0 and not err, err
    labels = list(read_labels("runs/labels.jsonl"))
    write_tokenizer(tmp_path, ["class", "method", "object"])
    shape = ["--num_layers=1", "--embed_dim=64", "--length=16", f"--tokenizer={tmp_path / 'tokenizer.json'}"]
    train = [where, "--labels=runs/labels.jsonl", "--output=runs/quality", "--epochs=1", *shape]
    status, out, err = llama3("encoder", "train", *train)
    assert status == 0, err
    status, out, err = llama3("encoder", "predict", "--checkpoint=runs/quality", where, "--output=runs/quality.jsonl")
    assert status == 0 and not err, err
    scores = read_given("runs/quality.jsonl").scores
    assert len(scores) >= len({each.id for each in labels}) > 50
    limit = float(sorted(scores)[len(scores) // 2])
    bounds = f"--config.rules.bounds.quality=({limit},None)"
    status, out, err = llama3("curate", f"--config={CONFIGS / 'curate_web.py'}:scored", *settings, bounds)
    assert status == 0, err
    counts = [
        json.loads((tmp_path / f"runs/{name}/data_card.json").read_text()) for name in ("curate", "curate_scored")
    ]
    dropped = counts[1]["steps"]["verdicts"]["reason.quality"]
    assert dropped > 0 and counts[1]["kept"]["documents"] == counts[0]["kept"]["documents"] - dropped
    assert not [line for line in err if line.startswith(("read-crawl", "heuristics"))], "what was known is read again"

"""Ranking and downsampling through the pipeline: shares are met, whatever the partitions."""

import numpy as np
import pytest

from llama3_jax.curation.classify.linear import LinearConfig, train
from llama3_jax.curation.classify.models import open_model
from llama3_jax.curation.classify.ranking import RankingConfig
from llama3_jax.curation.curation_config import ModelEntry
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.selection import SelectionConfig
from tests.curation.corpus import articles, write_files
from tests.curation.test_pipeline import config, digest, kept, run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A classifier of articles by whether they speak of classes."""
    texts = [" ".join(body) for body in articles(60)]
    path = tmp_path_factory.mktemp("model") / "model.npz"
    labels = ["classes" if text.count("class") > 1 else "other" for text in texts]
    assert len(set(labels)) == 2
    train(texts, labels, LinearConfig()).save(path)
    return str(path)


def test_the_best_of_each_language_stay(tmp_path, model):
    pages = write_files(tmp_path / "pages", 3)
    models = {"quality": ModelEntry(path=model, label="classes")}
    everything = config(tmp_path, pages, "all", models=models)
    half = SelectionConfig(rank_by="quality", ranking=RankingConfig(share=0.5))
    ranked = config(tmp_path, pages, "ranked", models=models, selection=half, workdir=everything.workdir)
    run(everything)
    steps = run(ranked)
    totals = steps["selected"].results(ranked.workdir).total()
    assert totals["documents"] == len(kept(everything))
    assert len(kept(ranked)) == len(kept(everything)) // 2 == totals["documents"] - totals["reason.rank"]
    score = open_model(model)
    place = score.labels.index("classes")
    best = {row["url"] for row in kept(ranked)}
    scores = {row["url"]: float(score.scores([row["text"]])[0, place]) for row in kept(everything)}
    worst_kept = min(scores[url] for url in best)
    assert (
        np.mean([scores[url] <= worst_kept + 0.05 for url in scores if url not in best]) > 0.9
    )  # lines were cut since
    again = config(tmp_path, pages, "again", models=models, selection=half, partitions=5, shuffle_parts=3)
    run(again)
    assert digest(again) == digest(ranked)


def test_a_kind_of_knowledge_is_downsampled(tmp_path, model):
    pages = write_files(tmp_path / "pages", 2)
    shares = SelectionConfig(shares={"classes": 0.2})
    settings = config(tmp_path, pages, "less", knowledge=model, selection=shares)
    steps = run(settings)
    totals = steps["limits"].results(settings.workdir).total()
    before = totals["classes.chars"] / (totals["classes.chars"] + totals["other.chars"])
    dropped = steps["selected"].results(settings.workdir).total()["reason.knowledge"]
    assert before > 0.3 and dropped > 3


def test_a_label_that_no_model_has(tmp_path, model):
    pages = write_files(tmp_path / "pages", 1)
    settings = config(tmp_path, pages, models={"quality": ModelEntry(path=model, label="clases")})
    with pytest.raises(ValueError, match="has no label 'clases'; it has classes, other"):
        run(settings)


def test_a_share_of_a_kind_that_the_classifier_does_not_know(tmp_path, model):
    pages = write_files(tmp_path / "pages", 1)
    settings = config(tmp_path, pages, knowledge=model, selection=SelectionConfig(shares={"clases": 0.2}))
    with pytest.raises(ValueError, match="selection.shares: .* has no label 'clases'; it has classes, other"):
        make_steps(settings)


def test_shares_need_a_classifier(tmp_path):
    with pytest.raises(ValueError, match="needs a classifier"):
        config(tmp_path, "pages", selection=SelectionConfig(shares={"arts": 0.1}))

"""Training of encoders: a planted task is learned, a stopped run ends in the same bits, a mesh makes no difference."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.core.telemetry import read_metrics
from llama3_jax.data.windows import WindowConfig, WindowEncoder
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.roberta import Roberta, RobertaConfig, encoder_layout
from llama3_jax.train import classifier
from llama3_jax.train.checkpoint import CheckpointConfig, CheckpointError
from llama3_jax.train.classifier import train_classifier
from llama3_jax.train.classifier_config import ClassifierConfig
from llama3_jax.train.classifier_data import ClassifierBatches, encode_examples
from llama3_jax.train.classifier_metrics import area_under_curve, evaluate_scores, score_of
from llama3_jax.train.classifier_store import open_classifier
from llama3_jax.train.length_buckets import bucket_of, bucketed, buckets_for
from llama3_jax.train.scorer import Scorer
from tests.data.windows_tokenizer import write_tokenizer
from tests.train.planted_documents import planted

judge = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with lm-eval in the test extra")

MODEL = RobertaConfig(vocab_size=400, num_layers=1, embed_dim=32, num_heads=2, mlp_dim=64, num_positions=34)
WINDOWS = WindowConfig(length=32)
COMPUTE = ComputeConfig(compute_dtype="float32", attention="reference", remat="none")
ONE_DEVICE = MeshConfig(fsdp=1)


@pytest.fixture(autouse=True)
def one_device_unless_asked(monkeypatch):
    """Meshes as small as they are asked for, on a machine of eight devices."""

    def smallest(config):
        sizes = [abs(size) for size in dataclasses.astuple(config)]
        return make_mesh(config, jax.devices()[: math.prod(sizes)])

    monkeypatch.setattr(classifier, "make_mesh", smallest)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    texts, _ = planted(200, 9)
    return WindowEncoder(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), texts, 400), WINDOWS)


@pytest.fixture(scope="module")
def examples(encoder):
    """Training and held-out documents of two classes."""
    return tuple(encode_examples(encoder, *planted(num, seed)) for num, seed in ((640, 0), (300, 1)))


def config(workdir, **changes):
    settings = {
        "workdir": str(workdir),
        "model": MODEL,
        "windows": WINDOWS,
        "epochs": 2,
        "learning_rate": 2e-3,
        "warmup_share": 0.1,
        "positive_from": 0.5,
        "compute": COMPUTE,
        "mesh": ONE_DEVICE,
    }
    return ClassifierConfig(**(settings | changes))


def params_of(workdir):
    stored = open_classifier(str(workdir))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return jax.device_get(stored.restore(Roberta(stored.config.model, COMPUTE, encoder_layout(mesh)), mesh))


def losses_of(workdir):
    return [line["loss"] for line in read_metrics(str(workdir)) if "loss" in line]


def assert_same_bits(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_planted_task_is_learned(encoder, examples, tmp_path, capsys, num_labels):
    model = dataclasses.replace(MODEL, num_labels=num_labels)
    result = train_classifier(config(tmp_path / "run", model=model), encoder, *examples)
    assert result.finished and result.steps == 40
    assert result.measures["auc"] >= 0.95
    assert 0 <= result.measures["f1"] <= result.measures["auc"]
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == result.measures
    lines = read_metrics(str(tmp_path / "run"))
    early = [line["step"] for line in lines if "held_out_auc" in line]
    assert early == [3, 39]  # after the warm-up, and at the end
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert np.allclose(rates, [2e-3 * min((step + 1) / 4, (40 - step) / 36) for step in range(40)])
    printed = capsys.readouterr().out
    assert "held out, after warm-up (step 4): auc" in printed and "documents/s" in printed

    stored = open_classifier(str(tmp_path / "run"))
    assert stored.config.model == model
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    module = Roberta(stored.config.model, COMPUTE, encoder_layout(mesh))
    again = WindowEncoder(stored.tokenizer, stored.config.windows)
    assert again.fingerprint == encoder.fingerprint
    scorer = Scorer(module, stored.restore(module, mesh), again, mesh)
    texts, labels = planted(300, 1)
    scores = scorer(texts)
    assert scores.dtype == np.float32 and scores.shape == (300,)
    assert judge.roc_auc_score(labels, scores) == pytest.approx(result.measures["auc"])


def test_three_classes_and_a_score_are_told_apart(encoder, tmp_path):
    train, held_out = (encode_examples(encoder, *planted(num, seed, 3)) for num, seed in ((640, 0), (200, 1)))
    changes = {"model": dataclasses.replace(MODEL, num_labels=3), "positive_from": 1.5, "epochs": 3}
    measures = train_classifier(config(tmp_path, **changes), encoder, train, held_out).measures
    assert measures["auc"] >= 0.9 and measures["exact"] > 0.6


def test_a_run_that_is_stopped_ends_in_the_same_bits(encoder, examples, tmp_path, monkeypatch):
    small = [dataclasses.replace(e, windows=e.windows[:160], labels=e.labels[:160]) for e in examples]
    changes = {"epochs": 2, "checkpoint": CheckpointConfig(every_steps=3)}
    train_classifier(config(tmp_path / "whole", **changes), encoder, *small)

    class Cut(classifier.StopSignal):
        def leaves_at(self, step):
            return step == 4

    with monkeypatch.context() as patched:
        patched.setattr(classifier, "StopSignal", Cut)
        cut = train_classifier(config(tmp_path / "cut", **changes), encoder, *small)
    assert not cut.finished and cut.steps == 4 and not (tmp_path / "cut" / "final").exists()
    assert train_classifier(config(tmp_path / "cut", **changes), encoder, *small).finished
    assert_same_bits(params_of(tmp_path / "whole"), params_of(tmp_path / "cut"))
    losses = [
        [line["loss"] for line in read_metrics(str(tmp_path / name)) if "loss" in line] for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 10
    again = train_classifier(config(tmp_path / "whole", **changes), encoder, *small)
    assert again.finished and again.steps == 10 and again.measures["auc"] > 0.5

    for changed, name in (({"seed": 1}, "seed"), ({"learning_rate": 1e-3}, "learning_rate")):
        with pytest.raises(CheckpointError, match=f"its {name} differs"):
            train_classifier(config(tmp_path / "cut", **changes, **changed), encoder, *small)
    with pytest.raises(CheckpointError, match="its train differs"):
        train_classifier(config(tmp_path / "cut", **changes), encoder, small[1], small[1])


@pytest.mark.parametrize("mesh", [{"fsdp": 1, "tensor": 2}, {"data": 2, "fsdp": 2}], ids=str)
def test_a_mesh_trains_what_one_device_does(encoder, examples, tmp_path, mesh):
    small = [dataclasses.replace(e, windows=e.windows[:64], labels=e.labels[:64]) for e in examples]
    settings = {"epochs": 2, "model": dataclasses.replace(MODEL, vocab_size=401)}
    train_classifier(config(tmp_path / "one", **settings), encoder, *small)
    train_classifier(config(tmp_path / "many", mesh=MeshConfig(**mesh), **settings), encoder, *small)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(close, params_of(tmp_path / "one"), params_of(tmp_path / "many"))
    losses = losses_of(tmp_path / "one"), losses_of(tmp_path / "many")
    assert np.allclose(*losses, atol=1e-5) and len(losses[0]) == 4


def test_weights_can_be_given_with_or_without_a_head(encoder, examples, tmp_path):
    small = [dataclasses.replace(e, windows=e.windows[:64], labels=e.labels[:64]) for e in examples]
    train_classifier(config(tmp_path / "first"), encoder, *small)
    given = params_of(tmp_path / "first")
    still = {"learning_rate": 1e-30, "epochs": 1}
    train_classifier(config(tmp_path / "all", **still), encoder, *small, params=given)
    assert_same_bits(params_of(tmp_path / "all"), given)
    encoder_alone = {name: arrays for name, arrays in given.items() if name != "head"}
    train_classifier(config(tmp_path / "part", **still), encoder, *small, params=encoder_alone)
    found = params_of(tmp_path / "part")
    assert_same_bits({name: arrays for name, arrays in found.items() if name != "head"}, encoder_alone)
    assert np.std(found["head"]["out_UL"]) == pytest.approx(0.02, rel=0.5)


def test_a_score_depends_on_its_document_alone(encoder):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    module = Roberta(MODEL, COMPUTE, encoder_layout(mesh))
    params = jax.tree.map(lambda x: 3 * x, classifier.init_params(module, 0, mesh, module.layout))
    scorer = Scorer(module, params, encoder, mesh, batch_tokens=256)
    texts, _ = planted(60, 3)
    texts += ["", "one", texts[0] * 50]
    together = scorer(texts)
    assert len(np.unique(together)) > 50
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_array_equal(scorer([texts[place] for place in order]), together[order])
    np.testing.assert_array_equal(np.concatenate([scorer(texts[:7]), scorer(texts[7:8]), scorer(texts[8:])]), together)
    assert scorer([]).shape == (0,)

    many = WindowEncoder(encoder.path, dataclasses.replace(WINDOWS, length=16, max_windows=4))
    windows, documents = many.encode(texts)
    assert documents.tolist().count(0) > 1
    alone = classifier.make_outputs(module, mesh, 16)(params, windows)
    mean = [alone[documents == number].mean(axis=0) for number in range(len(texts))]
    np.testing.assert_allclose(Scorer(module, params, many, mesh).outputs(texts), mean, atol=1e-6)


def test_every_document_comes_once_an_epoch_in_an_order_of_its_seed(examples):
    train = examples[0]
    batches = ClassifierBatches(train, 32, 7, 32, 1)
    assert batches.steps_per_epoch == 20
    first, second = batches.epoch(0), batches.epoch(1)
    assert sorted(first.ravel().tolist()) == sorted(second.ravel().tolist()) == list(range(640))
    assert (first != second).any() and (batches.epoch(0) == first).all()
    assert (dataclasses.replace(batches, seed=8).epoch(0) != first).any()
    spread = [np.ptp([len(train.windows[place]) for place in places]) for places in first]
    assert np.mean(spread) < 6  # of 32: a batch has documents of like length
    odd = dataclasses.replace(batches, rows=48)
    assert odd.steps_per_epoch == 14 and set(odd.epoch(0).ravel().tolist()) == set(range(640))


def test_buckets_hold_every_window_once():
    buckets = buckets_for(100)
    assert buckets == (16, 32, 48, 64, 96, 100) and bucket_of(16, buckets) == 16 and bucket_of(97, buckets) == 100
    with pytest.raises(ValueError, match="a row of 101 tokens"):
        bucket_of(101, buckets)
    windows = [np.arange(length, dtype=np.int32) for length in np.random.default_rng(0).integers(1, 101, 50)]
    found, shapes = {}, set()
    for batch in bucketed(windows, buckets, 256, 2, pad_id=999):
        shapes.add(batch.tokens.shape)
        assert (batch.lengths[len(batch.places) :] == 0).all()
        for row, place in enumerate(batch.places):
            found[place] = batch.tokens[row, : batch.lengths[row]]
            assert (batch.tokens[row, batch.lengths[row] :] == 999).all()
    assert sorted(found) == list(range(50)) and all((found[place] == windows[place]).all() for place in found)
    assert shapes <= {(16, 16), (8, 32), (4, 48), (4, 64), (2, 96), (2, 100)}


def test_measures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 500).astype(np.float32)
    outputs = np.round(labels + rng.normal(size=500) * 2, 1)[:, None]  # with ties
    found = evaluate_scores(outputs, labels, 3.0)
    good, scores = labels >= 3, outputs[:, 0]
    wanted = {
        "auc": judge.roc_auc_score(good, scores),
        "accuracy": judge.accuracy_score(good, scores >= 3),
        "f1": judge.f1_score(good, scores >= 3),
        "precision": judge.precision_score(good, scores >= 3),
        "recall": judge.recall_score(good, scores >= 3),
        "squared_error": judge.mean_squared_error(labels, scores),
    }
    assert found == pytest.approx(wanted, abs=1e-12)
    logits = rng.normal(size=(500, 6))
    classes = evaluate_scores(logits, labels, 3.0)
    assert classes["exact"] == pytest.approx(judge.accuracy_score(labels, logits.argmax(1)))
    assert math.isnan(area_under_curve(np.ones(3, bool), np.arange(3)))
    np.testing.assert_allclose(score_of(np.array([[0.0, np.log(3)]])), [0.75])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"warmup_share": 1.0}, "warmup_share"),
        ({"model": dataclasses.replace(MODEL, num_labels=0)}, "num_labels"),
        ({"model": dataclasses.replace(MODEL, num_labels=2), "positive_from": 3.0}, "positive_from 3 does not part 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_what_does_not_fit_together_is_refused(encoder, examples, tmp_path):
    def refused(message, settings, train=examples[0], encoder=encoder):
        with pytest.raises(ValueError, match=message):
            train_classifier(config(tmp_path / "run", **settings), encoder, train, examples[1])
        assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.json"))

    refused("400 tokens, the model 300", {"model": dataclasses.replace(MODEL, vocab_size=300)})
    refused("windows of 32 tokens; the model takes 30", {"model": dataclasses.replace(MODEL, num_positions=32)})
    refused("pads with token 1, the model with 0", {"model": dataclasses.replace(MODEL, pad_id=0)})
    refused("batch_rows 33", {"batch_rows": 33, "mesh": MeshConfig(data=2, fsdp=1)})
    refused("1 step leaves none", {"batch_rows": 1024, "epochs": 1})
    three = dataclasses.replace(examples[0], labels=examples[0].labels * 3)
    refused("none of the classes 0 to 1", {"model": dataclasses.replace(MODEL, num_labels=2)}, train=three)
    refused("no number", {}, train=dataclasses.replace(examples[0], labels=examples[0].labels * np.nan))
    refused("there are no training", {}, train=dataclasses.replace(examples[0], windows=[], labels=np.zeros(0)))

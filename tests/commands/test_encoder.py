"""From documents over labels to scores, as a person does it: `llama3 label`, then `llama3 encoder`."""

import json

import numpy as np
import pytest

from llama3_jax.curation.labelling.labels import read_labels
from tests.curation.labelling.scripted_judge import says, scripted_judge
from tests.data.windows_tokenizer import write_tokenizer
from tests.train.planted_documents import GOOD, planted


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with documents of two kinds and a tokenizer of them."""
    folder = tmp_path_factory.mktemp("pages")
    texts, _ = planted(240, 0)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "pages.jsonl").write_text("".join([*lines, *lines[:20]]))  # some of them twice
    write_tokenizer(folder, texts)
    return folder


def likes_theorems(page, before):
    good = sum(word in GOOD for word in page.split())
    return says(f"{good} words.\nScore: {min(5, 2 * good)}")


def label(llama3, pages, output, url, *more):
    where = [f"--input={pages / 'pages.jsonl'}", f"--output={output}", f"--url={url}", "--model=m"]
    return llama3("label", *where, "--variant=reasoning", *more)


def test_from_documents_to_scores(llama3, pages, tmp_path):
    labels, run = tmp_path / "labels.jsonl", tmp_path / "run"
    with scripted_judge(likes_theorems) as (url, judge):
        status, out, err = label(llama3, pages, labels, url, "--dry_run", "--dollars_per_million=1,2")
        assert status == 0 and "240 documents to ask about" in out and "$" in out and not labels.exists()
        status, out, err = label(llama3, pages, labels, url, "--count=60")
        assert status == 0 and not err and "60 documents to ask about" in out and "60 labels, 60 answers" in out
        first = {each.id for each in read_labels(labels)}
        status, out, err = label(llama3, pages, labels, url)
        assert status == 0 and "60 of 240 documents have their answer" in out and "240 labels, 180 answers" in out
    assert set(judge.asked.values()) == {1} and len(judge.asked) == 240
    assert len(first) == 60 and {each.variant for each in read_labels(labels)} == {"reasoning"}

    where = [f"--input={pages / 'pages.jsonl'}", f"--labels={labels}", f"--output={run}"]
    shape = ["--num_layers=1", "--embed_dim=64", "--length=32", f"--tokenizer={pages / 'tokenizer.json'}"]
    plan = ["--epochs=4", "--learning_rate=2e-3", "--positive_from=1"]
    status, out, err = llama3("encoder", "train", *where, *shape, *plan)
    assert status == 0 and not err, err
    assert "held out, after warm-up" in out and f"the classifier is in {run}: held-out AUC" in out
    measures = json.loads((run / "evaluation.json").read_text())
    assert measures["auc"] >= 0.9

    def predict(checkpoint, output, *more):
        flags = [f"--checkpoint={checkpoint}", f"--input={pages / 'pages.jsonl'}", f"--output={output}", *more]
        status, out, err = llama3("encoder", "predict", *flags)
        assert status == 0 and not err and "260 scores" in out
        return {record["id"]: record["score"] for record in map(json.loads, output.read_text().splitlines())}

    scores = predict(run, tmp_path / "scores.jsonl")
    wanted = {each.id: each.label for each in read_labels(labels)}
    assert scores.keys() == wanted.keys()
    assert np.corrcoef([scores[name] for name in wanted], list(wanted.values()))[0, 1] > 0.5

    status, out, _ = llama3("encoder", "convert", f"--checkpoint={run}", f"--output={tmp_path / 'hf'}")
    assert status == 0 and "a Hugging Face folder of float32 weights" in out
    again = predict(tmp_path / "hf", tmp_path / "again.jsonl", "--length=32")
    assert all(abs(again[name] - score) < 1e-6 for name, score in scores.items())
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "hf" / "tokenizer.json"))
    texts = [json.loads(line)["text"] for line in (pages / "pages.jsonl").read_text().splitlines()[:20]]
    with torch.no_grad():
        found = [
            float(theirs(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).logits[0, 0])
            for text in texts
        ]
    ours = list(scores.values())[:20]
    np.testing.assert_allclose(ours, found, atol=1e-4)

    init = ["train", *where[:2], f"--output={tmp_path / 'more'}", f"--init={tmp_path / 'hf'}", "--length=32"]
    status, out, err = llama3("encoder", *init, "--epochs=1", "--learning_rate=1e-5", "--positive_from=1")
    assert status == 0 and not err
    more = json.loads((tmp_path / "more" / "evaluation.json").read_text())
    assert more["auc"] == pytest.approx(measures["auc"], abs=0.02)

    with scripted_judge(likes_theorems) as (url, _):
        by_score = [f"--scores={tmp_path / 'scores.jsonl'}", "--count=20", "--kind=yes_no"]
        assert label(llama3, pages, labels, url, *by_score)[0] == 0
    status, _, err = llama3("encoder", "train", *where, *shape)
    assert status == 1 and "answers 2 questions; choose one with --prompt=" in err[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "--model=m", "--url=x", "--output=o"], "--input"),
        (["label", "--model=m", "--url=ftp://x", "--output=o", "--input=PAGES"], "url must begin with http"),
        (["label", "--model=m", "--url=http://x", "--output=o", "--input=PAGES", "--variant=poetry"], "<quality|code|"),
        (
            [
                "label",
                "--model=m",
                "--url=http://x",
                "--output=o",
                "--input=PAGES",
                "--dollars_per_million=1",
                "--dry_run",
            ],
            "takes two numbers",
        ),
        (["encoder", "train", "--output=o"], "train needs --input"),
        (["encoder", "predict", "--output=o", "--input=PAGES"], "predict needs --checkpoint"),
        (["encoder", "convert", "--output=o", "--checkpoint=nowhere"], "nowhere has no config.json"),
        (["encoder", "train", "--output=o", "--input=PAGES", "--labels=none"], "--tokenizer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_sentence(llama3, pages, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = llama3(*(argument.replace("PAGES", str(pages / "pages.jsonl")) for argument in arguments))
    assert status == 1 and len(err) == 1 and err[0].startswith(f"llama3 {arguments[0]}: ") and message in err[0], err
    assert not list(tmp_path.rglob("*"))


def test_a_judge_that_refuses_ends_the_command_with_its_reason(llama3, pages, tmp_path):
    with scripted_judge(likes_theorems) as (url, _):
        status, _, err = label(llama3, pages, tmp_path / "labels.jsonl", url.replace("/v1", "/v2"), "--retries=0")
        assert status == 0  # the script knows no paths
    status, _, err = label(llama3, pages, tmp_path / "other.jsonl", url, "--retries=0")
    assert status == 1 and "20 documents in a row had no answer, the last for: no connection" in err[-1]

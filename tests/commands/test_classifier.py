"""`llama3 classifier` as a person meets it."""

import json

import numpy as np
import pytest

from llama3_jax import cli
from llama3_jax.curation.classify.linear import LinearClassifier

WORDS = np.array([f"w{number}" for number in range(300)])


@pytest.fixture
def corpus(tmp_path):
    """Pages of 400 hosts; those with an even number have words of their own, and Wikipedia cites the first of them."""
    rng = np.random.default_rng(0)
    with open(tmp_path / "pages.jsonl", "w") as file:
        for number in range(800):
            words = WORDS[:200] if number % 2 else WORDS[100:]
            row = {"url": f"https://h{number // 2}.example/{number}", "text": " ".join(rng.choice(words, 40))}
            file.write(json.dumps({**row, "category": "odd" if number % 2 else "even"}) + "\n")
    links = ",".join(f"({n},'http://www.h{n // 2}.example/{n}')" for n in range(0, 800, 2))
    (tmp_path / "links.sql").write_text(f"INSERT INTO `externallinks` (`el_from`,`el_to`) VALUES {links};\n")
    return tmp_path


@pytest.fixture
def classifier(corpus, capfd):
    """`llama3 classifier --input=THE PAGES --output=THE MODEL ARGUMENTS -> (exit status, stdout, stderr)`."""

    def run(*arguments, output="model.npz"):
        capfd.readouterr()
        place = [f"--input={corpus / 'pages.jsonl'}", f"--output={corpus / output}"]
        status = cli.main(["classifier", *place, *map(str, arguments)])
        return status, *capfd.readouterr()

    return run


def area(printed: str, label: str) -> float:
    return float(printed.partition(f"auc.{label} ")[2].split(",")[0])


def test_what_wikipedia_cites(classifier, corpus):
    arguments = [f"--cited={corpus / 'links.sql'}", f"--cited_set={corpus / 'set'}", "--held_out=0.2"]
    status, out, err = classifier(*arguments)
    assert (status, err) == (0, "")
    assert "400 URLs of 400 hosts are cited" in out and area(out, "cited") > 0.95
    model = (corpus / "model.npz").read_bytes()
    assert LinearClassifier.load(corpus / "model.npz").labels == ("cited", "other")
    status, out, _ = classifier(f"--cited_set={corpus / 'set'}", "--held_out=0.2", output="again.npz")
    assert status == 0 and "are cited" not in out
    assert (corpus / "again.npz").read_bytes() == model


def test_labels_of_ones_own(classifier, corpus):
    status, out, err = classifier("--label_field=category", "--epochs=2", output="new/model.npz")
    assert (status, err) == (0, "")
    assert "labels even, odd" in out and area(out, "odd") > 0.9
    assert LinearClassifier.load(corpus / "new" / "model.npz").config.epochs == 2
    status, out, _ = classifier("--label_field=category", "--kind=characters", "--held_out=0")
    assert status == 0 and "held out, 0 documents" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --label_field"),
        (["--label_field=category", "--cited=x", "--cited_set=y"], "either --label_field"),
        (["--cited=x"], "cited_set"),
        (["--label_field=none"], "'none'"),
        (["--label_field=category", "--held_out=1"], "held_out"),
        (["--cited_set=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(classifier, arguments, message):
    status, _, err = classifier(*arguments)
    assert status == 1 and len(err.splitlines()) == 1 and message in err


def test_a_model_has_its_suffix(classifier):
    status, _, err = classifier("--label_field=category", output="model.bin")
    assert status == 1 and ".npz" in err

"""`llama3 tokenizer` as a person meets it."""

import functools
import json

import pytest

from llama3_jax.data.tokenizer import Tokenizer
from tests.data import multilingual


@pytest.fixture
def tokenizer(llama3):
    """`llama3 tokenizer ARGUMENTS -> (exit status, stdout, lines of stderr)`."""
    return functools.partial(llama3, "tokenizer")


@pytest.fixture
def corpus(tmp_path):
    """`--input` of two languages."""
    texts = {"en": multilingual.english()[:20], "hi": multilingual.made_of_script("hi", 20, seed=1)}
    for name, documents in texts.items():
        lines = (json.dumps({"text": text}) for _, text in documents)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return f"--input=en={tmp_path / 'en.jsonl'},hi={tmp_path / 'hi.jsonl'}"


def test_train_extend_compare(tokenizer, corpus, tmp_path):
    english, both = tmp_path / "english", tmp_path / "both"
    status, out, err = tokenizer(
        "train", f"--input={tmp_path / 'en.jsonl'}", "--vocab_size=1000", f"--output={english}"
    )
    assert (status, err) == (0, []) and "a tokenizer of 1,000 tokens, 256 kept, 488 learned" in out
    status, out, err = tokenizer(
        "extend", corpus, f"--base={english}", "--vocab_size=1400", "--weights=hi=20", f"--output={both}"
    )
    assert (status, err) == (0, []) and "1,400 tokens, 744 kept, 400 learned" in out
    old, new = Tokenizer.load(english), Tokenizer.load(both)
    assert new.learned_tokens[:744] == old.learned_tokens
    assert Tokenizer.load(both / "tokenizer.json").fingerprint == new.fingerprint
    report = json.loads((both / "training.json").read_text())
    assert report["fingerprint"] == new.fingerprint and report["frozen_fingerprint"] == old.fingerprint
    assert report["sources"]["hi"]["weight"] == 20 and report["sources"]["hi"]["documents"] == 20
    assert (report["frozen_tokens"], report["learned_tokens"], report["left_out_words"]) == (744, 400, 0)

    status, out, err = tokenizer(
        "compare", corpus, f"--base={english}", f"--tokenizer={both}", f"--output={tmp_path / 'comparison'}"
    )
    assert (status, err) == (0, []) and out.splitlines()[2].startswith("en ")
    written = json.loads((tmp_path / "comparison" / "compression.json").read_text())
    assert [row["source"] for row in written["sources"]] == ["en", "hi"]
    assert written["sources"][1]["change_percent"] > 50 and written["total"]["new"]["broken"] == 0
    assert (tmp_path / "comparison" / "compression.png").stat().st_size > 1000
    status, out, _ = tokenizer("compare", corpus, f"--base={both}", f"--tokenizer={both}", "--base_size=300")
    assert status == 0 and "old 300, new 1,144" in out


def test_balance_and_the_most_words(tokenizer, corpus, tmp_path):
    output = tmp_path / "out"
    status, out, _ = tokenizer(
        "train", corpus, "--vocab_size=600", "--balance=0", "--max_words=500", "--num_workers=1", f"--output={output}"
    )
    assert status == 0 and "were beyond --max_words" in out
    report = json.loads((output / "training.json").read_text())
    sizes = {name: source["bytes"] * source["weight"] for name, source in report["sources"].items()}
    assert report["different_words"] == 500 and report["left_out_different_words"] > 100
    assert 0.6 < sizes["hi"] / sizes["en"] < 1.6  # weights are whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say first what to do: train, extend, compare"),
        (["--input=x"], "say first what to do: train, extend, compare, not --input=x"),
        (["shrink", "--input=x"], "not shrink"),
        (["train"], "--input must have a value"),
        (["train", "--input=x"], "train needs --vocab_size"),
        (["train", "CORPUS", "--vocab_size=600"], "train needs --output"),
        (["train", "CORPUS", "--vocab_size=600", "--output=out", "--base=x"], "train does not take --base"),
        (["train", "CORPUS", "--vocab_size=5", "--output=out"], "vocab_size must be at least 512"),
        (["train", "CORPUS", "--vocab_size=99999", "--output=out"], "tokens of the 99999 asked for"),
        (["train", "CORPUS", "--vocab_size=600", "--output=out", "--weights=hi"], "is a list of name=times"),
        (["train", "CORPUS", "--vocab_size=600", "--output=out", "--weights=hi=-1"], "is a list of name=times"),
        (["train", "CORPUS", "--vocab_size=600", "--output=out", "--weights=xx=2"], "there is no source 'xx'"),
        (["train", "CORPUS", "--vocab_size=600", "--output=out", "--balance=7"], "balance must be from 0"),
        (["train", "CORPUS", "--vocab_size=600", "--output=out", "stray"], "unexpected argument 'stray'"),
        (["train", "--input=nowhere.txt", "--vocab_size=600", "--output=out"], "nowhere.txt: no such file"),
        (["train", "--input=latin.txt", "--vocab_size=600", "--output=out"], "latin.txt: not valid UTF-8"),
        (["train", "--input=empty.txt", "--vocab_size=600", "--output=out"], "the corpus is empty"),
        (["train", "CORPUS", "--vocab_size=600", "--output=there"], "is there already and is not overwritten"),
        (["extend", "CORPUS", "--vocab_size=600", "--output=out"], "extend needs --base"),
        (["extend", "CORPUS", "--vocab_size=600", "--output=out", "--base=gone"], "gone: no such tokenizer file"),
        (["extend", "CORPUS", "--vocab_size=600", "--output=out", "--base=latin.txt"], "line 1 is not"),
        (["compare", "CORPUS", "--base=x"], "compare needs --tokenizer"),
        (["compare", "CORPUS", "--base=x", "--tokenizer=x", "--vocab_size=9"], "compare does not take --vocab_size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_sentence(tokenizer, corpus, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b" \n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "tokenizer.model").write_bytes(b"")
    status, _, lines = tokenizer(*[corpus if argument == "CORPUS" else argument for argument in arguments])
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith("llama3 tokenizer: ") and message in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("errors", "documents"), [("replace", 3), ("skip", 1)])
def test_what_is_no_text_is_dealt_with_as_told(tokenizer, tmp_path, errors, documents):
    (tmp_path / "x.jsonl").write_bytes(
        b'{"text": "caf\xe9 cafe cafe"}\n{"text": "\\ud800 and and and"}\n{"text": "more and more"}'
    )
    status, _, lines = tokenizer(
        "train",
        f"--input={tmp_path / 'x.jsonl'}",
        "--vocab_size=513",
        f"--output={tmp_path / 'o'}",
        f"--errors={errors}",
    )
    report = json.loads((tmp_path / "o" / "training.json").read_text())
    assert status == 0 and report["sources"]["x"]["documents"] == documents
    assert lines == ([] if errors == "replace" else ["skipped 2 documents that are not UTF-8, in 1 files"])

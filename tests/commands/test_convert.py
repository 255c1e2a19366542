"""`llama3 convert` as a person meets it: a model there and back, what is printed, what is refused."""

import json
import re

import jax
import numpy as np
import pytest

from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.model.llama import HERD
from llama3_jax.train.load import load_model
from llama3_jax.train.pretrain import pretrain
from tests.train.runs import tiny_config


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    """A run of a few steps; the programs are those of test_cli.py."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"recipe__long_context__stages": (), "compute__remat": "none", "model__num_layers": 1}
    assert pretrain(tiny_config(inputs, folder, **changes)).finished
    return folder


def test_a_trained_model_goes_around_and_generates_the_same(llama3, trained, inputs, tmp_path):
    """Ours to Hugging Face to Meta in two shards and back: the same parameters, the same text."""
    path = [trained, tmp_path / "hugging_face", tmp_path / "meta", tmp_path / "back"]
    for source, target, to in zip(path, path[1:], ("hugging_face", "meta", "llama3_jax"), strict=False):
        shards = ["--shards=2"] if to == "meta" else []
        status, out, err = llama3("convert", f"--input={source}", f"--output={target}", f"--to={to}", *shards)
        assert status == 0 and not err, err
        assert "bytes of float32 weights" in out and "note:" not in out
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    before, after = (load_model(str(folder), mesh) for folder in (trained, path[-1]))
    assert after.stored.model == before.stored.model
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), before.params, after.params)
    assert after.tokenizer and before.tokenizer and after.tokenizer.fingerprint == before.tokenizer.fingerprint

    text = llama3("generate", f"--checkpoint={path[-1]}", "--prompt=The ", "--temperature=0", "--max_new_tokens=12")
    assert text[0] == 0 and text[1].startswith("The ")
    length = ["--sequence_length=32"]
    status, out, err = llama3("evaluate", f"--checkpoint={path[-1]}", f"--held_out={inputs / 'held_out'}", *length)
    assert status == 0 and not err
    ours = float(re.search(r"this model, 32 tokens of context +([\d.]+)", out)[1])
    assert "xz -9e" in out and "unigram" not in out
    status, out, err = llama3("evaluate", f"--checkpoint={trained}", *length)
    assert abs(float(re.search(r"this model, 32 tokens of context +([\d.]+)", out)[1]) - ours) < 2e-2  # bfloat16 there
    status, out, err = llama3("evaluate", f"--checkpoint={path[-1]}")
    assert status == 1 and "was made without held-out text; give a token store with --held_out" in err[0]


def test_weights_without_a_tokenizer_are_converted_and_say_so(llama3, trained, tmp_path):
    assert llama3("convert", f"--input={trained}", f"--output={tmp_path / 'theirs'}", "--to=hugging_face")[0] == 0
    for file in tmp_path.glob("theirs/tokenizer*"):
        file.unlink()
    status, out, _ = llama3(
        "convert", f"--input={tmp_path / 'theirs'}", f"--output={tmp_path / 'x'}", "--to=llama3_jax"
    )
    assert status == 0 and "note: no tokenizer is written" in out and "give one with --tokenizer" in out
    for command in ("generate", "evaluate"):
        status, _, err = llama3(command, f"--checkpoint={tmp_path / 'x'}")
        assert status == 1 and "was converted without a tokenizer; convert it with --tokenizer" in err[0]


@pytest.mark.parametrize(
    ("to", "files", "last"),
    [
        ("hugging_face", 191, "model-00191-of-00191.safetensors"),
        ("meta", 8, "consolidated.07.pth"),
        ("llama3_jax", 12, "0/state/params/norm/scale_M"),
    ],
)
def test_the_405b_is_planned_on_paper(llama3, tmp_path, monkeypatch, to, files, last):
    monkeypatch.chdir(tmp_path)
    plan = ["--input=llama3_1_405b", f"--to={to}", "--shards=8", "--dry_run", "--disk_mb_per_s=1000"]
    status, out, err = llama3("convert", *plan)
    assert status == 0 and not err
    rows = dict(re.findall(r"^  (\S+) +([\d,]+) bytes$", out, re.MULTILINE))
    total = int(rows.pop("total").replace(",", ""))
    assert len(rows) == files and last in rows
    assert sum(int(size.replace(",", "")) for size in rows.values()) == total
    parameters = 2 * 405_853_388_800
    norms = 2 * 16_384 * (2 * 126 + 1)  # every Meta shard has all of them
    assert total == parameters + (7 * norms if to == "meta" else 0)
    assert "peak memory: 12.9 GB beyond the program itself (its largest array has 4.20 GB)" in out
    assert "time: 1 h 30 min, the longer of 27 min to read and write at 1000 MB/s (measured) and 1 h 30 min for" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["hugging_face", "llama3_jax"])
def test_the_405b_in_fp8_is_planned_on_paper(llama3, to):
    """6.2: 124 of 126 layers; a byte for an entry of theirs and four for a row."""
    status, out, err = llama3("convert", "--input=llama3_1_405b", f"--to={to}", "--quantize=fp8", "--dry_run")
    assert status == 0 and not err and "weights to write, as fp8 and bfloat16:" in out
    total = int(re.search(r"^  total +([\d,]+) bytes$", out, re.MULTILINE)[1].replace(",", ""))
    saved = 124 * (3 * 16_384 * 53_248 - 4 * (2 * 53_248 + 16_384))
    assert total == 2 * 405_853_388_800 - saved


@pytest.mark.parametrize("name", HERD)
@pytest.mark.parametrize("to", ["hugging_face", "meta", "llama3_jax"])
def test_the_whole_herd_can_be_planned(llama3, name, to):
    status, out, err = llama3("convert", f"--input={name}", f"--to={to}", "--dtype=float32", "--dry_run")
    assert status == 0 and not err and "as float32:" in out and "(assumed; --disk_mb_per_s)" in out


def test_a_dry_run_of_a_folder_writes_nothing(llama3, trained, tmp_path):
    status, out, _ = llama3("convert", f"--input={trained}", "--to=meta", f"--output={tmp_path / 'x'}", "--dry_run")
    assert status == 0 and "llama3_jax to meta" in out and "consolidated.00.pth" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to=gguf"], "value should be one of <hugging_face|meta|llama3_jax>"),
        (["--to=hugging_face", "--quantize=fp4"], "value should be one of <keep|none|fp8|int8>"),
        (
            ["--to=hugging_face", "--quantize=int8", "--output=x"],
            "int8 weights are not written as hugging_face; llama3_jax can",
        ),
        (
            ["--to=llama3_jax", "--quantize=fp8", "--output=x"],
            "num_layers is 1: the first and the last layer stay, so none is",
        ),
        (["--to=meta", "--dtype=float16"], "value should be one of <keep|bfloat16|float32>"),
        (["--to=meta", "--shards=0", "--output=x"], "shards and file_gb must be positive"),
        (["--to=meta", "--shards=3", "--output=x"], "3 shards do not divide"),
        (["--to=meta"], "--output is required, for example --output="),
        (["--to=meta", "--input=nowhere", "--output=x"], "nowhere is not a folder"),
        (["--to=meta", "--input=empty", "--output=x"], "empty holds no weights that are known: neither *.safetensors"),
        (["--to=meta", "--output=full"], "full is not empty; choose another folder, or replace it with --overwrite"),
        (["--to=meta", "--output=full", "--overwrite"], "full holds mine.txt, which no conversion writes"),
        (["--to=meta", "--input=full", "--output=full/x"], "the output full/x and the input full lie in each other"),
        (["--to=meta", "--output=x", "--step=99"], "has no checkpoint of step 99"),
        (["--to=meta", "--output=x", "--tokenizer=nowhere.model"], "nowhere.model: no such tokenizer file"),
        (["--to=meta", "--dry_run", "--disk_mb_per_s=-1"], "disk_mb_per_s must be positive, got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_sentence(llama3, trained, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    status, _, lines = llama3("convert", f"--input={trained}", *flags)
    assert status == 1 and len(lines) == 1 and message in lines[0], lines
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_run_says_of_a_converted_checkpoint(trained, tmp_path, llama3):
    assert (
        llama3("convert", f"--input={trained}", f"--output={tmp_path / 'x'}", "--to=llama3_jax", "--dtype=bfloat16")[0]
        == 0
    )
    run = json.loads((tmp_path / "x" / "0" / "run" / "metadata").read_text())
    assert run["converted"]["source"] == "llama3_jax" and run["converted"]["compute"]["param_dtype"] == "bfloat16"

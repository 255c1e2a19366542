"""Conversions in every direction, bit for bit, and what is refused."""

import dataclasses
import itertools
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.model.convert import from_hugging_face
from llama3_jax.model.llama import HERD
from llama3_jax.train import layer_arrays
from llama3_jax.train.load import load_model
from llama3_jax.weights import named
from llama3_jax.weights.convert import Request, convert, prepare
from llama3_jax.weights.hugging_face_config import SpecialIds, released_ids
from tests.weights.models import FAMILY, WRITERS, assert_holds, assert_same_tensors, numpy_of, run_conversion

CONFIG = FAMILY["llama3"]
DIRECTIONS = list(itertools.permutations(WRITERS, 2))


TRAITS = [
    ("llama3", "float32", 1),
    ("llama3_1", "bfloat16", 2),
    ("llama3_2", "bfloat16", 4),
    ("llama3_3", "float32", 2),
]


@pytest.mark.parametrize(("family", "dtype", "shards"), TRAITS)
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_every_bit_arrives(tmp_path, source, target, family, dtype, shards):
    config = FAMILY[family]
    WRITERS[source](tmp_path / "source", config, dtype, shards)
    run_conversion(tmp_path / "source", tmp_path / "target", target, shards=shards, file_gb=0.0002)
    assert_holds(tmp_path / "target", target, config, dtype, shards)
    run_conversion(tmp_path / "target", tmp_path / "back", source, shards=shards)
    assert_holds(tmp_path / "back", source, config, dtype, shards)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A small model in Hugging Face's files, several of them, float32."""
    folder = tmp_path_factory.mktemp("theirs") / "model"
    WRITERS["hugging_face"](folder, CONFIG, "float32")
    return folder


@pytest.fixture(scope="module")
def metas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metas") / "model"
    WRITERS["meta"](folder, CONFIG, "float32", 2)
    return folder


@pytest.fixture
def copy(theirs, tmp_path):
    return pathlib.Path(shutil.copytree(theirs, tmp_path / "copy"))


@pytest.fixture
def meta_copy(metas, tmp_path):
    return pathlib.Path(shutil.copytree(metas, tmp_path / "meta_copy"))


@pytest.mark.parametrize("target", WRITERS)
def test_bfloat16_is_rounded_as_torch_rounds_and_float32_is_exact(theirs, tmp_path, target):
    run_conversion(theirs, tmp_path / "rounded", target, "bfloat16")
    assert_holds(tmp_path / "rounded", target, CONFIG, "bfloat16")
    run_conversion(tmp_path / "rounded", tmp_path / "wide", "hugging_face", "float32")
    for name, tensor in load_folder(tmp_path / "wide").items():
        assert torch.equal(tensor, load_folder(theirs)[name].bfloat16().float())


def load_folder(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (4, 2)])
def test_metas_shards_become_more_or_fewer(tmp_path, before, after):
    WRITERS["meta"](tmp_path / "before", CONFIG, "bfloat16", before)
    run_conversion(tmp_path / "before", tmp_path / "after", "meta", shards=after)
    assert_holds(tmp_path / "after", "meta", CONFIG, "bfloat16", after)


@pytest.mark.parametrize("head", ["stored twice", "absent"])
def test_a_tied_head_of_metas_is_seen_in_its_bytes(tmp_path, head):
    config = FAMILY["llama3_2"]
    WRITERS["meta"](tmp_path / "meta", config, "bfloat16")
    weights = torch.load(tmp_path / "meta" / "consolidated.00.pth")
    if head == "absent":
        del weights["output.weight"]
    else:
        weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    torch.save(weights, tmp_path / "meta" / "consolidated.00.pth")
    run_conversion(tmp_path / "meta", tmp_path / "ours", "llama3_jax")
    assert_holds(tmp_path / "ours", "llama3_jax", config, "bfloat16")
    weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    weights["output.weight"][-1, -1] += 1
    torch.save(weights, tmp_path / "meta" / "consolidated.00.pth")
    run_conversion(tmp_path / "meta", tmp_path / "untied", "hugging_face")
    assert "lm_head.weight" in load_folder(tmp_path / "untied")


def test_a_tied_head_is_stored_once_for_meta(tmp_path):
    WRITERS["hugging_face"](tmp_path / "theirs", FAMILY["llama3_2"], "bfloat16")
    run_conversion(tmp_path / "theirs", tmp_path / "meta", "meta")
    weights = torch.load(tmp_path / "meta" / "consolidated.00.pth", mmap=True)
    assert weights["output.weight"].data_ptr() == weights["tok_embeddings.weight"].data_ptr()


def test_a_tied_head_that_says_something_else_is_refused(tmp_path):
    WRITERS["hugging_face"](tmp_path / "theirs", FAMILY["llama3_2"], "float32")
    weights = load_folder(tmp_path / "theirs")
    for file in tmp_path.glob("theirs/*safetensors*"):
        file.unlink()
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()},
        tmp_path / "theirs" / "x.safetensors",
    )
    run_conversion(tmp_path / "theirs", tmp_path / "ours", "llama3_jax")
    assert_holds(tmp_path / "ours", "llama3_jax", FAMILY["llama3_2"], "float32")
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1}, tmp_path / "theirs" / "x.safetensors"
    )
    with pytest.raises(ValueError, match="tie_word_embeddings is true, but lm_head.weight differs"):
        run_conversion(tmp_path / "theirs", tmp_path / "again", "llama3_jax")


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_our_checkpoint_is_restored_onto_any_mesh(theirs, tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(layer_arrays, "MAX_CHUNK_BYTES", 3000)  # several chunks a layer, the last ones not full
    run_conversion(theirs, tmp_path / "ours", "llama3_jax")
    mesh = make_mesh(MeshConfig(**({"fsdp": 1} | sizes)), jax.devices()[: 8 if sizes else 1])
    params = load_model(str(tmp_path / "ours"), mesh).params
    expected = from_hugging_face(numpy_of(load_folder(theirs)), CONFIG)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), params, expected)
    run_conversion(tmp_path / "ours", tmp_path / "back", "hugging_face")
    assert_same_tensors(load_folder(tmp_path / "back"), load_folder(theirs))


def save_again(folder: pathlib.Path, change) -> None:
    """Rewrites the folder's tensors, changed, as one file."""
    weights = load_folder(folder)
    for file in folder.glob("*safetensors*"):
        file.unlink()
    change(weights)
    save_file(weights, folder / "model.safetensors")


def cut(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


NORM, QUERY = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: cut(f / "model-00002-of-00005.safetensors"),
            "model-00002-of-.*.safetensors is cut short or damaged",
        ),
        (
            lambda f: (f / "model-00002-of-00005.safetensors").unlink(),
            "lacks model-00002-of-00005.safetensors, one of the 5",
        ),
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: Expecting property name"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json makes no sense as a config"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "index.json makes no sense"),
        (lambda f: save_again(f, lambda w: w.pop(NORM)), f"has no tensor {NORM}"),
        (
            lambda f: save_again(f, lambda w: w.update(extra=w[NORM].clone())),
            "model.safetensors has a tensor extra, which",
        ),
        (
            lambda f: save_again(f, lambda w: w.update({QUERY: w[QUERY][:-1].clone()})),
            rf"tensor {QUERY} in .*model.safetensors has shape \(63, 64\); the config asks for \(64, 64\)",
        ),
        (
            lambda f: save_again(f, lambda w: w.update({QUERY: w[QUERY].half()})),
            rf"tensor {QUERY} in .*model.safetensors is F16; only bfloat16 and float32 can be converted",
        ),
    ],
)
def test_damaged_weights_of_hugging_face_are_named(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises((ValueError, OSError), match=message) as refusal:
        run_conversion(copy, tmp_path / "out", "llama3_jax")
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def save_shard(folder: pathlib.Path, change) -> None:
    weights = torch.load(folder / "consolidated.01.pth")
    change(weights)
    torch.save(weights, folder / "consolidated.01.pth")


WK = "layers.2.attention.wk.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "consolidated.01.pth"), "consolidated.01.pth is cut short, or is no file of torch.save"),
        (lambda f: (f / "consolidated.00.pth").unlink(), "without gaps; it has consolidated.01.pth"),
        (
            lambda f: (f / "consolidated.01.pth").unlink(),
            r"tensor tok_embeddings.weight .* has shape \(256, 64\); .* \(512, 64\)",
        ),
        (lambda f: (f / "params.json").unlink(), "params.json"),
        (lambda f: save_shard(f, lambda w: w.pop(WK)), f"has no tensor {WK}"),
        (lambda f: save_shard(f, lambda w: w.update(x=w[WK])), "consolidated.01.pth has a tensor x, which"),
        (
            lambda f: save_shard(f, lambda w: w.update({WK: w[WK][1:]})),
            rf"tensor {WK} in .*01.pth has shape \(15, 64\)",
        ),
        (
            lambda f: save_shard(f, lambda w: w.update({WK: w[WK].bfloat16()})),
            f"{WK} is bfloat16 and float32 in different",
        ),
        (lambda f: save_shard(f, lambda w: w.update({WK: w[WK].half()})), f"{WK} in .*01.pth is float16; only"),
    ],
)
def test_damaged_weights_of_meta_are_named(meta_copy, tmp_path, damage, message):
    damage(meta_copy)
    with pytest.raises((ValueError, OSError), match=message) as refusal:
        run_conversion(meta_copy, tmp_path / "out", "llama3_jax")
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta_copy"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_of_ours_is_named_and_leaves_nothing(theirs, tmp_path):
    run_conversion(theirs, tmp_path / "ours", "llama3_jax")
    data = max((tmp_path / "ours").rglob("d/*"), key=lambda path: path.stat().st_size)
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2] ^= 255
    data.write_bytes(raw)
    with pytest.raises(ValueError, match="could not read (embedding_VD|head_DV)") as refusal:
        run_conversion(tmp_path / "ours", tmp_path / "out", "hugging_face")
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]


def test_a_checkpoint_of_another_shape_is_refused(theirs, tmp_path):
    run_conversion(theirs, tmp_path / "ours", "llama3_jax")
    file = tmp_path / "ours" / "0" / "run" / "metadata"
    run = json.loads(file.read_text())
    for change, message in (
        ({"mlp_dim": 96}, r"array layers/mlp/w1_DF in .* has shape \(3, 64, 160\); its config asks for \(3, 64, 96\)"),
        ({"tied": True}, "has an unknown array head_DV"),
    ):
        model = run["converted"]["model"] | change
        file.write_text(json.dumps(run | {"converted": run["converted"] | {"model": model}}))
        with pytest.raises(ValueError, match=message):
            run_conversion(tmp_path / "ours", tmp_path / "out", "hugging_face")


@pytest.mark.parametrize(
    ("shards", "what"), [(3, "tok_embeddings: it has 512"), (8, "layers.{}.attention.wk: it has 4")]
)
def test_shards_that_do_not_divide_are_refused(theirs, tmp_path, shards, what):
    with pytest.raises(ValueError, match=f"{shards} shards do not divide {re.escape(what)}"):
        run_conversion(theirs, tmp_path / "out", "meta", shards=shards)


def test_nothing_that_is_there_is_lost(theirs, tmp_path):
    output = tmp_path / "out"

    def again(overwrite: bool) -> None:
        request = Request(input=str(theirs), output=str(output), to="meta", overwrite=overwrite)
        convert(request, prepare(request), lambda text: None)

    again(False)
    with pytest.raises(ValueError, match="out is not empty; choose another folder, or replace it with --overwrite"):
        again(False)
    (tmp_path / "out.partial").mkdir()  # of a conversion that was killed
    with pytest.raises(ValueError, match="out.partial is there: another conversion is writing it, or was killed"):
        again(False)
    before = (output / "consolidated.00.pth").stat().st_ino
    again(True)
    assert (output / "consolidated.00.pth").stat().st_ino != before
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="out holds thesis.txt, which no conversion writes; it is not replaced"):
        again(True)
    assert sorted(path.name for path in output.iterdir()) == ["consolidated.00.pth", "params.json", "thesis.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_trained_checkpoint_is_not_replaced(theirs, tmp_path):
    for run, replaced in (({"converted": {}}, True), ({"config": {}}, False)):
        folder = tmp_path / "out" / "0" / "run"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text(json.dumps(run))
        request = Request(input=str(theirs), output=str(tmp_path / "out"), to="meta", overwrite=True)
        if replaced:
            convert(request, prepare(request), lambda text: None)
            shutil.rmtree(tmp_path / "out")
            continue
        with pytest.raises(ValueError, match="out holds 0, which no conversion writes"):
            convert(request, prepare(request), lambda text: None)
        assert (folder / "metadata").is_file()


def test_a_conversion_that_fails_half_way_leaves_what_was_there(theirs, tmp_path, monkeypatch):
    run_conversion(theirs, tmp_path / "out", "meta")
    before = (tmp_path / "out" / "consolidated.00.pth").read_bytes()
    request = Request(input=str(theirs), output=str(tmp_path / "out"), to="meta", overwrite=True)
    conversion = prepare(request)
    calls = iter(range(5))
    monkeypatch.setattr(named, "contiguous", lambda array, dtype: np.zeros(next(calls)))
    with pytest.raises(StopIteration):
        convert(request, conversion, lambda text: None)
    assert (tmp_path / "out" / "consolidated.00.pth").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_is_too_full_is_told_before_anything_is_written(theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ValueError, match="out needs [0-9,]+ bytes, the disk has 10 left"):
        run_conversion(theirs, tmp_path / "out", "meta")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_goes_with_the_weights(theirs, inputs, tmp_path):
    ours = Tokenizer.load(inputs / "tokenizer.model")

    def converted(source, target, to, tokenizer=None):
        request = Request(input=str(source), output=str(target), to=to, tokenizer=tokenizer and str(tokenizer))
        conversion = prepare(request)
        convert(request, conversion, lambda text: None)
        return conversion.notes

    assert "no tokenizer is written" in converted(theirs, tmp_path / "none", "llama3_jax")[0]
    assert not converted(theirs, tmp_path / "ours", "llama3_jax", inputs / "tokenizer.model")
    assert not converted(tmp_path / "ours", tmp_path / "hugging_face", "hugging_face")
    assert not converted(tmp_path / "hugging_face", tmp_path / "meta", "meta")
    assert not converted(tmp_path / "meta", tmp_path / "back", "llama3_jax")
    assert load_model(str(tmp_path / "back"), make_mesh(MeshConfig())).tokenizer.fingerprint == ours.fingerprint
    assert (tmp_path / "meta" / "tokenizer.model").read_bytes() == (inputs / "tokenizer.model").read_bytes()
    generation = json.loads((tmp_path / "hugging_face" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(ours.stop_ids) and generation["bos_token_id"] == ours.bos_id
    assert not converted(tmp_path / "hugging_face", tmp_path / "copied", "hugging_face")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copied" / name).read_bytes() == (tmp_path / "hugging_face" / name).read_bytes()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        converted(theirs, tmp_path / "x", "llama3_jax", tmp_path / "nowhere")
    small = dataclasses.replace(CONFIG, vocab_size=256)
    WRITERS["hugging_face"](tmp_path / "small", small, "float32")
    with pytest.raises(ValueError, match="tokenizer.model has 512 tokens, the model 256"):
        converted(tmp_path / "small", tmp_path / "x", "llama3_jax", inputs / "tokenizer.model")


def test_stop_tokens_of_the_released_vocabulary(theirs, tmp_path):
    run_conversion(theirs, tmp_path / "out", "hugging_face")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] is None
    assert released_ids(HERD["llama3_8b"]) == SpecialIds(128_000, (128_001, 128_008, 128_009))


def test_the_factor_of_3_2_is_told_when_it_goes_to_meta(tmp_path):
    WRITERS["hugging_face"](tmp_path / "theirs", FAMILY["llama3_2"], "bfloat16")
    notes = run_conversion(tmp_path / "theirs", tmp_path / "out", "meta")
    assert any("rotary scaling factor 32 is written to params.json as rope_scaling_factor" in note for note in notes)


def test_layers_of_different_dtypes_need_a_choice(copy, tmp_path):
    save_again(copy, lambda weights: weights.update({QUERY: weights[QUERY].bfloat16()}))
    with pytest.raises(
        ValueError, match="layers of layers/attention/wq_DHE have different dtypes; choose one with --dtype"
    ):
        run_conversion(copy, tmp_path / "out", "llama3_jax")
    run_conversion(copy, tmp_path / "meta", "meta")
    assert torch.load(tmp_path / "meta" / "consolidated.00.pth")["layers.1.attention.wq.weight"].dtype == torch.bfloat16
    run_conversion(copy, tmp_path / "out", "llama3_jax", "float32")

"""Weights in 8 bits: into Hugging Face's form and ours, and out of them, read by other people's code."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
pytest.importorskip("transformers")

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations import fbgemm_fp8

from llama3_jax import cli
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.model.llama import Llama
from llama3_jax.model.quantized import quantize_params
from llama3_jax.ops.quant import GRIDS, quantize_rows
from llama3_jax.train.load import load_model
from llama3_jax.weights.convert import Request, prepare
from llama3_jax.weights.quantized import quantized_rows
from tests.weights.models import FAMILY, quiet, run_conversion, write_hugging_face

CONFIG = dataclasses.replace(FAMILY["llama3_1"], num_layers=4)
TIED = dataclasses.replace(FAMILY["llama3_2"], num_layers=4)
MIDDLE = [f"model.layers.{layer}.mlp.{name}" for layer in (1, 2) for name in ("gate_proj", "up_proj", "down_proj")]
TOKENS_BS = np.random.default_rng(0).integers(0, 512, (2, 24)).astype(np.int32)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """`transformers`' files of four layers, in bfloat16 and in several files."""
    folder = tmp_path_factory.mktemp("theirs") / "model"
    write_hugging_face(folder, CONFIG, "bfloat16")
    return folder


@pytest.fixture(scope="module")
def fp8(theirs):
    """Those weights in FP8, in Hugging Face's form."""
    folder = theirs.with_name("fp8")
    run_conversion(theirs, folder, "hugging_face", quantize="fp8", file_gb=0.0002)
    return folder


def tensors_of(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    def same(a, b):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(a.view(torch.uint8), b.view(torch.uint8))

    return left.keys() == right.keys() and all(same(tensor, right[name]) for name, tensor in left.items())


def loaded(folder: pathlib.Path):
    return load_model(str(folder), make_mesh(MeshConfig(), jax.devices()[:1]))


@functools.cache
def program(graphdef):
    return jax.jit(lambda params: nnx.merge(graphdef, params)(TOKENS_BS))


def logits_of(trained, params=None) -> np.ndarray:
    return np.asarray(program(trained.graphdef)(trained.params if params is None else params))


def test_what_the_files_hold(theirs, fp8):
    """Middle feed-forwards as FBGEMM's rule has it, read by the safetensors package; all else bit for bit as it was."""
    before, after = tensors_of(theirs), tensors_of(fp8)
    assert after.keys() == before.keys() | {f"{name}.weight_scale" for name in MIDDLE}
    for name in MIDDLE:
        matrix = before[f"{name}.weight"].float()
        scales = torch.clamp(matrix.abs().amax(1, keepdim=True) / 448, min=1 / (448 * 512))
        values = (matrix * (1 / scales)).to(torch.float8_e4m3fn)
        assert same_bits({"w": after[f"{name}.weight"]}, {"w": values})
        assert same_bits({"w": after[f"{name}.weight_scale"]}, {"w": scales})
    rest = before.keys() - {f"{name}.weight" for name in MIDDLE}
    assert same_bits({name: before[name] for name in rest}, {name: after[name] for name in rest})


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["a head of its own", "tied"])
def test_transformers_understands_the_config(tmp_path, config):
    write_hugging_face(tmp_path / "theirs", config, "bfloat16")
    run_conversion(tmp_path / "theirs", tmp_path / "fp8", "hugging_face", quantize="fp8")
    understood = transformers.AutoConfig.from_pretrained(tmp_path / "fp8")
    assert isinstance(understood, transformers.LlamaConfig)
    quantization = transformers.quantizers.AutoHfQuantizer.merge_quantization_configs(
        understood.quantization_config, None
    )
    assert isinstance(quantization, transformers.FbgemmFp8Config)
    assert quantization.activation_scale_ub == 1200.0 and "lm_head" in quantization.modules_to_not_convert
    should = transformers.quantizers.quantizers_utils.should_convert_module
    with torch.device("meta"):
        modules = transformers.LlamaForCausalLM(understood).named_modules()
    linear = [name for name, module in modules if isinstance(module, torch.nn.Linear)]
    converted = [name for name in linear if should(name, quantization.modules_to_not_convert)]
    assert sorted(converted) == sorted(MIDDLE)


def transformers_model(folder: pathlib.Path, monkeypatch):
    """Its own FP8 layers, with the two kernels that are CUDA's replaced: rows quantised here, multiplied by torch."""

    def quantize_fp8_per_row(x, scale_ub):
        amax = torch.minimum(x.float().abs().amax(-1), scale_ub)
        scales = torch.clamp(amax / 448, min=1 / (448 * 512))
        return (x.float() * (1 / scales)[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn), scales

    monkeypatch.setattr(fbgemm_fp8, "get_quantize_fp8_per_row", lambda: quantize_fp8_per_row)
    monkeypatch.setattr(fbgemm_fp8, "_is_torch_xpu_available", True)  # products by torch._scaled_mm
    monkeypatch.setattr(fbgemm_fp8, "init_empty_weights", lambda include_buffers: torch.device("meta"), raising=False)
    config = transformers.AutoConfig.from_pretrained(folder)
    settings = transformers.FbgemmFp8Config(**config.quantization_config)
    del config.quantization_config
    with quiet():
        model = transformers.LlamaForCausalLM(config).float()
    fbgemm_fp8.replace_with_fbgemm_fp8_linear(model, settings.modules_to_not_convert, settings, pre_quantized=True)
    result = model.load_state_dict(tensors_of(folder), strict=not config.tie_word_embeddings, assign=True)
    assert not result.unexpected_keys
    for module in model.modules():
        if isinstance(module, fbgemm_fp8.FbgemmFp8Linear):
            module.input_scale_ub = torch.tensor([settings.activation_scale_ub])
    model = model.eval()
    model.requires_grad_(False)
    return model


def test_logits_are_those_of_transformers_own_fp8_layers(tmp_path, monkeypatch):
    write_hugging_face(tmp_path / "theirs", CONFIG, "float32")
    run_conversion(tmp_path / "theirs", tmp_path / "fp8", "hugging_face", quantize="fp8")
    run_conversion(tmp_path / "fp8", tmp_path / "ours", "llama3_jax")
    expected = transformers_model(tmp_path / "fp8", monkeypatch)(torch.from_numpy(TOKENS_BS).long()).logits.numpy()
    trained = loaded(tmp_path / "ours")
    assert trained.stored.quantized == "fp8"
    logits = logits_of(trained)
    # 2e-6 was seen for all of them. Where a sum in another order moves a value across the middle between two of FP8's,
    # a row of logits moves by a step of it.
    assert np.quantile(np.abs(logits - expected), 0.9) <= 2e-5
    assert np.abs(logits - expected).max() <= 0.03
    run_conversion(tmp_path / "theirs", tmp_path / "plain", "llama3_jax")
    assert np.quantile(np.abs(logits - logits_of(loaded(tmp_path / "plain"))), 0.5) > 1e-3


def test_fp8_goes_around_bit_for_bit(fp8, tmp_path):
    """From Hugging Face's form to ours and back, and to itself; what is multiplied out is what it stands for."""
    run_conversion(fp8, tmp_path / "ours", "llama3_jax")
    run_conversion(tmp_path / "ours", tmp_path / "back", "hugging_face", file_gb=0.0002)
    run_conversion(fp8, tmp_path / "again", "hugging_face", file_gb=0.0002, quantize="fp8")
    for folder in ("back", "again"):
        assert same_bits(tensors_of(tmp_path / folder), tensors_of(fp8))
        assert (tmp_path / folder / "config.json").read_bytes() == (fp8 / "config.json").read_bytes()
    notes = run_conversion(tmp_path / "ours", tmp_path / "meta", "meta")
    assert "meta holds no fp8 weights: those of the feed-forward layers are multiplied out" in notes
    run_conversion(fp8, tmp_path / "plain", "hugging_face", quantize="none")
    run_conversion(fp8, tmp_path / "wide", "hugging_face", "float32", quantize="none")
    run_conversion(tmp_path / "meta", tmp_path / "from_meta", "hugging_face")
    plain, wide, metas = (tensors_of(tmp_path / name) for name in ("plain", "wide", "from_meta"))
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert same_bits(metas, plain)
    held = tensors_of(fp8)
    for name in MIDDLE:
        exact = held[f"{name}.weight"].float() * held[f"{name}.weight_scale"]
        assert same_bits({"w": wide[f"{name}.weight"]}, {"w": exact})
        assert same_bits({"w": plain[f"{name}.weight"]}, {"w": exact.bfloat16()})


@pytest.mark.parametrize("grid", GRIDS)
def test_our_checkpoints_hold_8_bits_and_open_as_quantised_models(theirs, tmp_path, grid):
    """The arrays are those that `quantize_params` makes of the unquantised ones, to the bit; and so are the logits."""
    said = run_conversion(theirs, tmp_path / "ours", "llama3_jax", quantize=grid)
    assert f"bytes of {grid} and bfloat16 weights" in said[-1]
    run_conversion(theirs, tmp_path / "plain", "llama3_jax")
    plain, trained = loaded(tmp_path / "plain"), loaded(tmp_path / "ours")
    module = Llama(CONFIG, plain.stored.compute, layers_apart=True)
    expected = quantize_params(plain.stored.restore_apart(module, make_mesh(MeshConfig(), jax.devices()[:1])), grid)
    assert trained.params["layers"][1]["mlp"]["w1_FD"].dtype == GRIDS[grid].dtype
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(bits(a), bits(b)), trained.params, expected)
    np.testing.assert_array_equal(logits_of(trained), logits_of(trained, expected))
    unquantised = logits_of(plain)
    assert 1e-3 < np.abs(logits_of(trained) - unquantised).max() / np.abs(unquantised).max() < 0.2
    request = Request(input=str(theirs), output=None, to="llama3_jax")
    planned = [prepare(dataclasses.replace(request, quantize=quantize)).num_bytes for quantize in (grid, "none")]
    matrices, scales = 2 * 3 * 128 * 160, 2 * (2 * 160 + 128)
    assert planned[1] - planned[0] == matrices - 4 * scales  # two bytes an entry became one


def bits(array) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8)


def test_a_quantised_checkpoint_opens_on_a_mesh(theirs, tmp_path):
    run_conversion(theirs, tmp_path / "ours", "llama3_jax", quantize="int8")
    alone = loaded(tmp_path / "ours")
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))
    split = load_model(str(tmp_path / "ours"), mesh)
    assert split.params["layers"][2]["mlp"]["w1_FD"].sharding.spec == split.stored.layout(mesh).stored("FD")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(bits(a), bits(b)), split.params, alone.params)


@pytest.mark.parametrize("grid", GRIDS)
def test_generate_and_evaluate_open_a_quantised_checkpoint(theirs, inputs, tmp_path, capfd, grid):
    tokenizer, bits = f"--tokenizer={inputs / 'tokenizer.model'}", {}
    for name, quantize in (("plain", "none"), ("ours", grid)):
        folder = tmp_path / name
        convert = ["convert", f"--input={theirs}", f"--output={folder}", "--to=llama3_jax", f"--quantize={quantize}"]
        assert cli.main([*convert, tokenizer]) == 0
        held_out = ["evaluate", f"--checkpoint={folder}", f"--held_out={inputs / 'held_out'}", "--sequence_length=32"]
        assert cli.main(held_out) == 0
        bits[name] = json.loads((folder / "evaluation.json").read_text())["nats_per_token"]
    assert 0 < abs(bits["ours"] - bits["plain"]) < 0.01 * bits["plain"]
    capfd.readouterr()
    generate = ["generate", f"--checkpoint={tmp_path / 'ours'}", "--prompt=The ", "--temperature=0"]
    generate += ["--max_new_tokens=16", "--dtype=float32"]
    said = []
    for split in ((), ("--stage=2",), ("--stage=4",)):
        assert cli.main([*generate, *split]) == 0
        said.append(capfd.readouterr().out)
    assert said[0].startswith("The ") and said == [said[0]] * 3


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_rows_made_in_numpy_are_those_made_in_jax(grid, dtype):
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(300, 5000)) * np.geomspace(1e-6, 1e6, 300)[:, None]).astype(dtype)
    matrix[7] = 0
    for given in (matrix, np.ascontiguousarray(matrix.T).T):
        values, scales = quantized_rows(given, GRIDS[grid])
        rows = jax.jit(quantize_rows, static_argnums=1)(matrix, grid)
        np.testing.assert_array_equal(bits(values), bits(rows.values))
        np.testing.assert_array_equal(scales, rows.scales)


@pytest.mark.parametrize(
    ("source", "to", "quantize", "message"),
    [
        ("theirs", "hugging_face", "int8", "int8 weights are not written as hugging_face; llama3_jax can hold them"),
        ("theirs", "meta", "fp8", "fp8 weights are not written as meta; hugging_face and llama3_jax can hold them"),
        ("fp8", "llama3_jax", "int8", "the weights are fp8 already; int8 is made of those they came from"),
        ("theirs", "meta", "fp4", "quantize is 'fp4'; there are keep, none, fp8, int8"),
        (
            "two layers",
            "llama3_jax",
            "fp8",
            "num_layers is 2: the first and the last layer stay, so none is left to quantise",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(theirs, fp8, tmp_path, source, to, quantize, message):
    write_hugging_face(tmp_path / "two", dataclasses.replace(CONFIG, num_layers=2), "bfloat16")
    folder = {"theirs": theirs, "fp8": fp8, "two layers": tmp_path / "two"}[source]
    with pytest.raises(ValueError, match=message):
        run_conversion(folder, tmp_path / "out", to, quantize=quantize)
    assert not (tmp_path / "out").exists()


def damaged(fp8: pathlib.Path, target: pathlib.Path, change) -> pathlib.Path:
    """A copy of the FP8 folder in one file, its tensors changed."""
    shutil.copytree(fp8, target)
    tensors = tensors_of(target)
    for file in target.glob("model*"):
        file.unlink()
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


NAME = "model.layers.2.mlp.up_proj.weight"
OUTER = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{NAME}_scale"), f"has no tensor {NAME}_scale"),
        (lambda t: t.update({NAME: t[NAME].bfloat16()}), "is bfloat16; only float8_e4m3fn can be converted"),
        (lambda t: t.update({f"{NAME}_scale": t[f"{NAME}_scale"].bfloat16()}), "is bfloat16; only float32 can"),
        (lambda t: t.update({f"{NAME}_scale": t[f"{NAME}_scale"][:, 0].clone()}), r"_scale in .* has shape \(160,\)"),
        (lambda t: t.update({OUTER: t[OUTER].to(torch.float8_e4m3fn)}), "is float8_e4m3fn; only bfloat16 and float32"),
        (lambda t: t.update({f"{OUTER}_scale": torch.ones(160, 1)}), f"has a tensor {OUTER}_scale"),
    ],
)
def test_a_damaged_fp8_folder_is_refused_by_name(fp8, tmp_path, change, message):
    folder = damaged(fp8, tmp_path / "damaged", change)
    with pytest.raises(ValueError, match=message):
        prepare(Request(input=str(folder), output=None, to="llama3_jax"))


def test_fp8_weights_without_their_config_are_refused(fp8, tmp_path):
    shutil.copytree(fp8, tmp_path / "copy")
    content = json.loads((fp8 / "config.json").read_text())
    del content["quantization_config"]
    (tmp_path / "copy" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is float8_e4m3fn; only bfloat16 and float32 can be converted"):
        prepare(Request(input=str(tmp_path / "copy"), output=None, to="meta"))


def test_weights_that_are_not_finite_are_not_quantised(theirs, tmp_path):
    def change(tensors):
        tensors[NAME][3, 5] = float("inf")

    folder = damaged(theirs, tmp_path / "infinite", change)
    with pytest.raises(ValueError, match="layers/mlp/w3_DF, layer 2: a row that is not finite cannot be quantised"):
        run_conversion(folder, tmp_path / "out", "llama3_jax", quantize="fp8")
    assert not (tmp_path / "out").exists()

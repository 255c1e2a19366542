"""Converted files against other people's models: `transformers`, and Meta's reference with its own files.

Positions go past 8,192, where the frequencies of neighbouring pairs or halves, scaled by 8, by 32 or not at all, have
long parted ways: a wrong permutation or factor cannot agree there.
"""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
pytest.importorskip("fairscale", reason="fairscale is installed by the test extra on Python 3.11 only")

import torch
import transformers

from llama3_jax.commands.serving import generator_of, place
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.tokenizer_training import train_tokenizer
from llama3_jax.infer.request import Request, SamplingConfig
from llama3_jax.model.layers import RopeScaling
from llama3_jax.model.llama import LlamaConfig
from llama3_jax.train.load import load_model, open_stored
from tests.weights import meta_reference
from tests.weights.models import FAMILY, quiet, run_conversion, write_hugging_face, write_meta

HUGGING_FACE_TOLERANCE, META_TOLERANCE, LONG_TOLERANCE = 2e-5, 5e-6, 2e-5
POSITIONS = [0, 8180, 100_000]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    meta_reference.start(tmp_path_factory.mktemp("ranks"))
    yield meta_reference
    meta_reference.stop()


@pytest.fixture(scope="module", params=FAMILY)
def folders(request, tmp_path_factory):
    """`transformers`' files of one member of the family, converted to ours and to Meta's, and from ours back."""
    config, folder = FAMILY[request.param], tmp_path_factory.mktemp(request.param)
    write_hugging_face(folder / "theirs", config, "float32")
    run_conversion(folder / "theirs", folder / "ours", "llama3_jax")
    run_conversion(folder / "ours", folder / "meta", "meta")
    run_conversion(folder / "ours", folder / "hugging_face", "hugging_face")
    return folder


def inputs(first_position: int, length: int = 24):
    tokens_BS = np.random.default_rng(1).integers(0, 512, (2, length)).astype(np.int32)
    positions = np.arange(first_position, first_position + length, dtype=np.int32)
    return tokens_BS, np.ascontiguousarray(np.broadcast_to(positions, (2, length)))


@functools.cache
def loaded(folder: pathlib.Path):
    return load_model(str(folder), make_mesh(MeshConfig(), jax.devices()[:1]))


def our_logits(folder: pathlib.Path, tokens_BS: np.ndarray, positions_BS: np.ndarray) -> np.ndarray:
    trained = loaded(folder)
    assert trained.model.compute.compute_dtype == "float32"
    return np.asarray(trained.model(tokens_BS, positions_BS))


def factor_of(folders: pathlib.Path) -> float:
    """The rotary factor; the reference uses none when params.json says so."""
    scaling = loaded(folders / "ours").stored.model.rope_scaling
    return scaling.factor if scaling else 8.0


def from_pretrained(folder: pathlib.Path):
    with quiet():
        model, info = transformers.LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("first_position", POSITIONS)
@pytest.mark.parametrize("written_by", ["theirs", "hugging_face"])
def test_logits_are_those_of_transformers(folders, written_by, first_position):
    tokens_BS, positions_BS = inputs(first_position)
    with torch.no_grad():
        model = from_pretrained(folders / written_by)
        expected = model(torch.from_numpy(tokens_BS).long(), position_ids=torch.from_numpy(positions_BS).long()).logits
    logits = our_logits(folders / "ours", tokens_BS, positions_BS)
    assert expected.abs().max() > 1
    assert np.abs(logits - expected.numpy()).max() <= HUGGING_FACE_TOLERANCE


@pytest.mark.parametrize("first_position", POSITIONS)
def test_logits_are_those_of_metas_reference(folders, reference, first_position):
    tokens_BS, positions_BS = inputs(first_position)
    model = reference.load(folders / "meta")
    reference.shift(model, first_position, factor_of(folders))
    expected = model(torch.from_numpy(tokens_BS).long(), 0).numpy()
    logits = our_logits(folders / "ours", tokens_BS, positions_BS)
    assert np.abs(expected).max() > 1
    assert np.abs(logits - expected).max() <= META_TOLERANCE


@pytest.mark.parametrize("folders", ["llama3_1", "llama3_2"], indirect=True)
def test_a_wrong_permutation_or_factor_would_show(folders, reference):
    """The test above can fail: the reference with another factor, and with weights not permuted, is far off."""
    tokens_BS, positions_BS = inputs(100_000)
    logits = our_logits(folders / "ours", tokens_BS, positions_BS)
    config = loaded(folders / "ours").stored.model
    model = reference.load(folders / "meta")
    reference.shift(model, 100_000, 8 * 32 / factor_of(folders))
    assert np.abs(model(torch.from_numpy(tokens_BS).long(), 0).numpy() - logits).max() > 100 * META_TOLERANCE
    reference.shift(model, 100_000, factor_of(folders))
    for layer in model.layers:
        weight = layer.attention.wq.weight.data
        pairs = weight.view(config.num_heads, config.head_dim // 2, 2, config.embed_dim)
        layer.attention.wq.weight.data = pairs.transpose(1, 2).reshape(weight.shape)
    assert np.abs(model(torch.from_numpy(tokens_BS).long(), 0).numpy() - logits).max() > 100 * META_TOLERANCE


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_a_text_of_8704_tokens_is_read_as_metas_reference_reads_it(tmp_path, reference, factor):
    """Here distances go past 8,192, too. The reference's cache is filled in pieces, as its generation would.

    Sums over 8,704 keys round more than over 24: 1e-5 was seen. The wrong factor is off by a half and more.
    """
    shape = {"vocab_size": 512, "num_layers": 2, "embed_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32}
    scaling = RopeScaling(factor=factor)
    config = LlamaConfig(**shape, mlp_dim=96, max_length=131_072, rope_scaling=scaling, tied=factor == 32.0)
    write_meta(tmp_path / "meta", config, "float32")
    run_conversion(tmp_path / "meta", tmp_path / "ours", "llama3_jax")
    tokens_BS, positions_BS = (array[:1] for array in inputs(0, 8704))
    logits = our_logits(tmp_path / "ours", tokens_BS, positions_BS)[:, -512:]
    model = reference.load(tmp_path / "meta", max_length=8704)
    for wrong in (False, True)[: 2 if factor == 32.0 else 1]:
        reference.shift(model, 0, 8 * 32 / factor if wrong else factor)
        for start in range(0, 8704, 512):
            expected = model(torch.from_numpy(tokens_BS[:, start : start + 512]).long(), start).numpy()
        difference = np.abs(logits - expected).max()
        assert difference > 0.1 if wrong else difference <= LONG_TOLERANCE


@pytest.mark.parametrize(("folders", "num_ranks"), [slow("llama3_1", 4), ("llama3_2", 2)], indirect=["folders"])
def test_several_consolidated_files_are_several_ranks_of_metas_reference(folders, tmp_path, num_ranks):
    """Each rank is a process of its own that loads its file and nothing else."""
    run_conversion(folders / "ours", tmp_path / "meta", "meta", shards=num_ranks)
    tokens_BS, positions_BS = inputs(0)
    np.save(tmp_path / "meta" / "tokens.npy", tokens_BS)
    command = [sys.executable, "-m", "tests.weights.meta_reference", str(tmp_path / "meta")]
    arguments = [str(num_ranks), str(factor_of(folders))]
    ranks = [subprocess.Popen([*command, str(rank), *arguments]) for rank in range(num_ranks)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * num_ranks
    logits = our_logits(folders / "ours", tokens_BS, positions_BS)
    for rank in range(num_ranks):
        expected = np.load(tmp_path / "meta" / f"logits.{rank}.npy")
        assert np.abs(logits - expected).max() <= META_TOLERANCE


@pytest.mark.parametrize("folders", [slow("llama3"), "llama3_1", slow("llama3_2"), slow("llama3_3")], indirect=True)
def test_greedy_answers_to_100_prompts_are_those_of_transformers(folders):
    rng = np.random.default_rng(2)
    lengths = np.repeat(rng.choice(np.arange(1, 40), 10, replace=False), 10)
    prompts = [rng.integers(0, 512, length).tolist() for length in lengths]
    stop = tuple(range(500, 512))
    tokenizer = train_tokenizer(["the cat sat"], vocab_size=512)  # any: tokens are compared
    sampling = SamplingConfig(max_new_tokens=16, temperature=0.0, stop_ids=stop)
    model = place(open_stored(str(folders / "ours")), tokenizer, dtype="float32")
    generator = generator_of(model, [len(prompt) + 16 for prompt in prompts])
    completions = generator.complete([Request(prompt=prompt, sampling=sampling) for prompt in prompts])
    ours = [completion.tokens for completion in completions]
    model = from_pretrained(folders / "hugging_face")
    theirs = [answer for first in range(0, 100, 10) for answer in greedy(model, prompts[first : first + 10], stop)]
    assert ours == theirs
    assert len({len(answer) for answer in ours}) > 3


def greedy(model, prompts: list[list[int]], stop: tuple[int, ...]) -> list[list[int]]:
    """Answers to prompts of one length, each up to its first stop token."""
    ids = torch.tensor(prompts)
    settings = transformers.GenerationConfig(
        max_new_tokens=16, do_sample=False, eos_token_id=list(stop), pad_token_id=0, use_cache=True
    )
    answers = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    rows = answers[:, len(prompts[0]) :].tolist()
    ends = [next((place for place, token in enumerate(row) if token in stop), len(row) - 1) for row in rows]
    return [row[: end + 1] for row, end in zip(rows, ends, strict=True)]


def test_the_reference_reads_what_it_needs_of_params_json(folders, reference):
    params = json.loads((folders / "meta" / "params.json").read_text())
    args = reference.load(folders / "meta").params
    config = loaded(folders / "ours").stored.model
    shape = (config.embed_dim, config.num_layers, config.num_heads, config.num_kv_heads)
    assert (args.dim, args.n_layers, args.n_heads, args.n_kv_heads) == shape
    assert (args.norm_eps, args.rope_theta) == (config.norm_eps, config.rope_theta)
    assert args.use_scaled_rope == params["use_scaled_rope"] == (config.rope_scaling is not None)

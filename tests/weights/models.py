"""The same random weights in all three formats, and none of them written by the converter.

Hugging Face's folder is `save_pretrained`'s. Meta's files are `torch.save`'s, of matrices permuted and split here by
the formulas of the released code, spelled out per tensor. Our checkpoint is Orbax's, saved from eight devices.
"""

import contextlib
import dataclasses
import io
import json
import pathlib

import jax
import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from llama3_jax.core.params import abstract_params
from llama3_jax.core.sharding import Layout, MeshConfig, make_mesh
from llama3_jax.model.convert import from_hugging_face
from llama3_jax.model.layers import ComputeConfig, RopeScaling
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.train.checkpoint import Checkpoints
from llama3_jax.train.load import ConvertedConfig, load_model
from llama3_jax.weights.convert import Request, convert, prepare
from llama3_jax.weights.format import Options

TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
LONG = {"vocab_size": 512, "num_layers": 3, "max_length": 131_072}
EIGHT = RopeScaling(factor=8.0)
# Every trait of the herd in shapes that Meta's format can express: head_dim is the width over the heads.
FAMILY = {
    "llama3": LlamaConfig(
        embed_dim=64, mlp_dim=160, num_heads=8, num_kv_heads=4, head_dim=8, **(LONG | {"max_length": 8192})
    ),
    "llama3_1": LlamaConfig(
        embed_dim=128,
        mlp_dim=160,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        rope_scaling=RopeScaling(factor=8.0),
        **LONG,
    ),
    "llama3_2": LlamaConfig(
        embed_dim=64,
        mlp_dim=192,
        num_heads=8,
        num_kv_heads=4,
        head_dim=8,
        rope_scaling=RopeScaling(factor=32.0),
        tied=True,
        **(LONG | {"num_layers": 12}),  # as many as need two digits
    ),
    "llama3_3": LlamaConfig(
        embed_dim=256, mlp_dim=192, num_heads=2, num_kv_heads=2, head_dim=128, rope_scaling=EIGHT, **LONG
    ),
}
ATTENTION = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"}
MLP = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@contextlib.contextmanager
def quiet():
    """`transformers` draws progress bars, and fairscale prints."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def hugging_face_model(config: LlamaConfig, dtype: str = "float32"):
    """A random `transformers.LlamaForCausalLM` whose logits have a standard deviation of about a half."""
    scaling = config.rope_scaling
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {"rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low_frequency}
        rope |= {"high_freq_factor": scaling.high_frequency}
        rope |= {"original_max_position_embeddings": scaling.original_length}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.embed_dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            rope_parameters=rope,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=config.tied,
            attn_implementation="eager",
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            draw = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 1:
                tensor.copy_(1 + 0.2 * draw)
            elif "embed" in name or "lm_head" in name:
                tensor.copy_(0.5 * config.embed_dim**-0.5 * draw)
            else:
                tensor.copy_(tensor.shape[1] ** -0.5 * draw)
    return model.to(TORCH[dtype]).eval()


def state_of(model) -> dict[str, torch.Tensor]:
    """Hugging Face's names and tensors, a tied head not repeated."""
    tied = model.config.tie_word_embeddings
    return {name: t.detach() for name, t in model.state_dict().items() if not (tied and name == "lm_head.weight")}


def meta_shards(state: dict[str, torch.Tensor], config: LlamaConfig, num_shards: int) -> list[dict[str, torch.Tensor]]:
    """Meta's tensors, rank by rank."""

    def interleaved(matrix, heads):
        halves = matrix.view(heads, 2, config.head_dim // 2, config.embed_dim)
        return halves.transpose(1, 2).reshape(heads * config.head_dim, config.embed_dim)

    whole, columns, rows = {}, {}, {}
    rows["tok_embeddings.weight"] = state["model.embed_tokens.weight"]
    rows["output.weight"] = state.get("lm_head.weight", state["model.embed_tokens.weight"])
    whole["norm.weight"] = state["model.norm.weight"]
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"model.layers.{i}"
        whole[f"{ours}.attention_norm.weight"] = state[f"{theirs}.input_layernorm.weight"]
        whole[f"{ours}.ffn_norm.weight"] = state[f"{theirs}.post_attention_layernorm.weight"]
        for name, other in ATTENTION.items():
            matrix = state[f"{theirs}.self_attn.{other}.weight"]
            heads = {"wq": config.num_heads, "wk": config.num_kv_heads}.get(name)
            target = columns if name == "wo" else rows
            target[f"{ours}.attention.{name}.weight"] = interleaved(matrix, heads) if heads else matrix
        for name, other in MLP.items():
            target = columns if name == "w2" else rows
            target[f"{ours}.feed_forward.{name}.weight"] = state[f"{theirs}.mlp.{other}.weight"]
    shards = []
    for rank in range(num_shards):
        shard = {name: tensor.clone() for name, tensor in whole.items()}
        shard |= {name: tensor.chunk(num_shards, dim=0)[rank].clone() for name, tensor in rows.items()}
        shard |= {name: tensor.chunk(num_shards, dim=1)[rank].clone() for name, tensor in columns.items()}
        shards.append(shard)
    return shards


def write_hugging_face(folder: pathlib.Path, config: LlamaConfig, dtype: str, num_shards: int = 1) -> None:
    with quiet():
        hugging_face_model(config, dtype).save_pretrained(folder, max_shard_size="200KB")


def write_meta(folder: pathlib.Path, config: LlamaConfig, dtype: str, num_shards: int = 1) -> None:
    folder.mkdir()
    for rank, shard in enumerate(meta_shards(state_of(hugging_face_model(config, dtype)), config, num_shards)):
        torch.save(shard, folder / f"consolidated.{rank:02}.pth")
    (folder / "params.json").write_text(json.dumps(meta_params(config)))


def meta_params(config: LlamaConfig) -> dict:
    """As Meta writes them, with the factor, which Meta does not write."""
    params = {"dim": config.embed_dim, "n_layers": config.num_layers, "n_heads": config.num_heads}
    params |= {"n_kv_heads": config.num_kv_heads, "vocab_size": config.vocab_size, "norm_eps": config.norm_eps}
    params |= {"rope_theta": config.rope_theta, "use_scaled_rope": config.rope_scaling is not None, "multiple_of": 32}
    params |= {"ffn_dim_multiplier": (config.mlp_dim - 1) / int(8 * config.embed_dim / 3)}
    if config.rope_scaling is not None:
        params["rope_scaling_factor"] = config.rope_scaling.factor
    return params


def write_ours(folder: pathlib.Path, config: LlamaConfig, dtype: str, num_shards: int = 1) -> None:
    """A checkpoint saved by Orbax as a run saves it, sharded over eight devices."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    compute = ComputeConfig(param_dtype=dtype, compute_dtype="float32", attention="reference")
    abstract = abstract_params(Llama(config, compute, Layout.of(mesh)), mesh)
    values = from_hugging_face(numpy_of(state_of(hugging_face_model(config, dtype))), config)
    params = jax.tree.map(lambda leaf, value: jax.device_put(value, leaf.sharding), abstract, values)
    converted = dataclasses.asdict(ConvertedConfig(model=config, compute=compute))
    run = {"step": 0, "sequence_length": 64, "fingerprints": {"tokenizer": None}, "converted": converted}
    checkpoints = Checkpoints(str(folder))
    checkpoints.save(0, {"params": params}, run)
    checkpoints.close()


def numpy_of(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """As numpy arrays; bfloat16 through its bits."""
    bfloat16 = jax.numpy.bfloat16
    return {
        name: tensor.view(torch.int16).numpy().view(bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
        for name, tensor in state.items()
    }


WRITERS = {"hugging_face": write_hugging_face, "meta": write_meta, "llama3_jax": write_ours}


def run_conversion(
    source: pathlib.Path, target: pathlib.Path, to: str, dtype: str = "keep", quantize: str = "keep", **options
) -> list[str]:
    """`llama3 convert` without the command line; what it says."""
    request = Request(
        input=str(source), output=str(target), to=to, dtype=dtype, quantize=quantize, options=Options(**options)
    )
    said: list[str] = []
    conversion = prepare(request)
    convert(request, conversion, said.append)
    return [*conversion.notes, *said]


def assert_same_tensors(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """The same names, shapes, dtypes and bits."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        other = right[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        assert torch.equal(tensor.view(BITS[tensor.dtype]), other.view(BITS[other.dtype])), name


def assert_holds(folder: pathlib.Path, form: str, config: LlamaConfig, dtype: str, num_shards: int = 1) -> None:
    """The folder holds exactly these weights, read by the format's own library, and the config."""
    state = state_of(hugging_face_model(config, dtype))
    if form == "hugging_face":
        found: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            found |= load_file(file)
        assert_same_tensors(found, state)
    elif form == "meta":
        expected = meta_shards(state, config, num_shards)
        files = sorted(folder.glob("*.pth"))
        assert [file.name for file in files] == [f"consolidated.{rank:02}.pth" for rank in range(num_shards)]
        for file, shard in zip(files, expected, strict=True):
            assert_same_tensors(torch.load(file, weights_only=True, mmap=True), shard)
    else:
        trained = load_model(str(folder), make_mesh(MeshConfig(), jax.devices()[:1]))
        assert trained.stored.model == config
        values = from_hugging_face(numpy_of(state), config)
        jax.tree.map(_assert_same_bits, trained.params, values)


def _assert_same_bits(left, right) -> None:
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left.view(np.uint8), right.view(np.uint8))

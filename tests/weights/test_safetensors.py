"""safetensors files, against the package of that name."""

import json
import pathlib
import random
import struct

import ml_dtypes
import numpy as np
import pytest

from llama3_jax.weights.safetensors import SafetensorsWriter, read_safetensors
from llama3_jax.weights.tensor import FileTensor

torch = pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")
package = pytest.importorskip("safetensors.torch")


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(3, 5)).astype(np.float32), "b": rng.normal(size=9).astype(ml_dtypes.bfloat16)}
    writer = SafetensorsWriter(
        tmp_path / "x.safetensors", [FileTensor(name, array.dtype, array.shape) for name, array in arrays.items()]
    )
    for array in arrays.values():
        writer.append(array)
    writer.close()
    return tmp_path / "x.safetensors"


def test_the_package_reads_what_we_write(path):
    found = package.load_file(path)
    for name, tensor in read_safetensors(path).items():
        ours = tensor.open()
        assert str(found[name].dtype) == f"torch.{ours.dtype}" and found[name].shape == ours.shape
        np.testing.assert_array_equal(found[name].float().numpy(), ours.astype(np.float32))


def test_we_read_what_the_package_writes(tmp_path):
    tensors = {"x": torch.randn(4, 3), "y": torch.randn(5).bfloat16(), "z": torch.zeros(2, dtype=torch.float16)}
    package.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert set(found) == set(tensors)
    for name in ("x", "y"):
        np.testing.assert_array_equal(found[name].open().astype(np.float32), tensors[name].float().numpy())
    with pytest.raises(ValueError, match="tensor z in .*x.safetensors is F16; only bfloat16 and float32"):
        found["z"].open()


def write_header(path: pathlib.Path, header, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "damaged safetensors header"),
        ([1], "damaged safetensors header"),
        ({"x": 1}, "damaged safetensors header"),
        ({"x": {"dtype": "F32", "shape": [2]}}, "KeyError: 'data_offsets'"),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, r"tensor x of shape \(2,\) has 4 bytes"),
        ({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, r"tensor x has shape \(-2,\)"),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, "at bytes 8 to 0"),
        ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "is cut short or damaged: .* its header says"),
    ],
)
def test_a_damaged_header_is_refused_by_name(tmp_path, header, message):
    write_header(tmp_path / "x.safetensors", header, b"\0" * 8)
    with pytest.raises(ValueError, match=message) as refusal:
        read_safetensors(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(refusal.value)


def test_a_file_cut_anywhere_or_with_flipped_bytes_never_does_worse_than_be_refused(path):
    whole, rng = path.read_bytes(), random.Random(0)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="x.safetensors"):
            read_safetensors(path)
    for _ in range(500):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            for tensor in read_safetensors(path).values():
                if tensor.dtype in ("bfloat16", "float32"):
                    tensor.open().tobytes()
        except ValueError as error:
            assert "x.safetensors" in str(error)

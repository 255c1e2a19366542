""".pth files: torch reads what we write, we read what torch writes, and nothing in a file is ever run."""

import collections
import io
import os
import pathlib
import pickle
import random
import zipfile

import ml_dtypes
import numpy as np
import pytest

from llama3_jax.weights.pth import read_pth
from llama3_jax.weights.pth_writer import PthWriter
from llama3_jax.weights.tensor import FileTensor

torch = pytest.importorskip("torch", reason="torch is installed by the test extra on Python 3.11 only")


def write(path: pathlib.Path, arrays: dict[str, np.ndarray], same: dict[str, str] | None = None) -> None:
    tensors = [FileTensor(name, array.dtype, array.shape) for name, array in arrays.items()]
    for name, other in (same or {}).items():
        tensors.append(FileTensor(name, arrays[other].dtype, arrays[other].shape, same_as=other))
    writer = PthWriter(path, tensors)
    for array in arrays.values():
        writer.append(array)
    writer.close()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (5, 7), "layers.0.norm": (33,), "b": (2, 3, 4), "one": (1,)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    values["b"] = values["b"].astype(ml_dtypes.bfloat16)
    return values


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_we_write(tmp_path, arrays, mmap):
    write(tmp_path / "x.pth", arrays, {"tied": "a.weight"})
    found = torch.load(tmp_path / "x.pth", weights_only=True, mmap=mmap)
    assert list(found) == [*arrays, "tied"]
    for name, array in arrays.items():
        expected = (
            torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if name == "b" else torch.from_numpy(array)
        )
        assert found[name].dtype == expected.dtype and torch.equal(found[name], expected)
    assert found["tied"].data_ptr() == found["a.weight"].data_ptr()  # stored once
    if mmap:
        assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())


def test_the_archive_is_whole_and_always_the_same(tmp_path, arrays):
    for name in ("x.pth", "y.pth"):
        write(tmp_path / name, arrays)
    assert zipfile.ZipFile(tmp_path / "x.pth").testzip() is None
    assert (tmp_path / "x.pth").read_bytes() == (tmp_path / "y.pth").read_bytes()


@pytest.mark.slow
def test_a_tensor_of_more_than_4_gib(tmp_path):
    large = np.zeros((2**31 + 8,), ml_dtypes.bfloat16)
    large[-1] = 3
    write(tmp_path / "x.pth", {"large": large, "small": np.ones(3, np.float32)})
    found = torch.load(tmp_path / "x.pth", weights_only=True, mmap=True)
    assert found["large"].shape == large.shape and found["large"][-1] == 3 and found["small"].tolist() == [1, 1, 1]
    stored = read_pth(tmp_path / "x.pth")
    assert stored["large"].open()[-1] == 3 and stored["small"].open().tolist() == [1, 1, 1]


def test_we_read_what_torch_writes(tmp_path):
    matrix = torch.arange(12.0).reshape(3, 4)
    saved = {
        "plain": matrix,
        "transposed": matrix.T,
        "part": matrix[1:, ::2],
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "half": torch.zeros(2, dtype=torch.float16),
    }
    torch.save(saved, tmp_path / "x.pth")
    found = read_pth(tmp_path / "x.pth")
    assert set(found) == set(saved)
    for name in ("plain", "transposed", "part"):
        np.testing.assert_array_equal(found[name].open(), saved[name].numpy())
    assert found["parameter"].open().dtype == ml_dtypes.bfloat16 and found["parameter"].open().tolist() == [1, 1]
    with pytest.raises(ValueError, match="tensor half in .*x.pth is float16; only bfloat16 and float32"):
        found["half"].open()


def test_we_read_a_state_dict_with_what_hangs_on_it(tmp_path):
    layer = torch.nn.Linear(2, 3)
    torch.save(layer.state_dict(), tmp_path / "x.pth")
    np.testing.assert_array_equal(read_pth(tmp_path / "x.pth")["weight"].open(), layer.weight.detach().numpy())


class Harmful:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def archive(path: pathlib.Path, description: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", description)
        file.writestr("archive/data/0", b"\0" * 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda path: {"x": Harmful(path)},
            r"asks for (posix|nt).mkdir, which no plain tensor needs and which is not run",
        ),
        (lambda path: {"x": eval}, "asks for (builtins|__builtin__).eval"),
        (lambda path: collections.Counter("ab"), "asks for collections.Counter"),
        (lambda path: {"x": 5}, "x is no tensor but int"),
        (lambda path: [1, 2], "does not hold a dict of tensors"),
        (lambda path: {7: 1}, "does not hold a dict of tensors"),
    ],
)
def test_what_a_file_asks_for_is_refused_and_not_run(tmp_path, content, message):
    archive(tmp_path / "x.pth", pickle.dumps(content(tmp_path / "harm"), protocol=2))
    with pytest.raises(ValueError, match=message):
        read_pth(tmp_path / "x.pth")
    assert not (tmp_path / "harm").exists()


def test_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "x.pth"
    for data, message in (
        (b"", "cut short, or is no file of torch.save"),
        (b"not a zip at all" * 10, "cut short, or is no file of torch.save"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"x.pth is {message}"):
            read_pth(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/other", b"")
    with pytest.raises(ValueError, match="it has 0 members data.pkl"):
        read_pth(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        torch.save({"x": torch.ones(3)}, buffer := io.BytesIO())
        for member in (source := zipfile.ZipFile(buffer)).infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(ValueError, match="is compressed"):
        read_pth(path)


def test_a_file_cut_anywhere_or_with_flipped_bytes_never_does_worse_than_be_refused(tmp_path, arrays):
    """Whatever is read after damage is read from inside the file; all else is a ValueError."""
    write(tmp_path / "x.pth", arrays)
    whole, damaged, rng = (tmp_path / "x.pth").read_bytes(), tmp_path / "damaged.pth", random.Random(0)
    for cut in range(0, len(whole), 97):
        damaged.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged.pth"):
            read_pth(damaged)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        damaged.write_bytes(data)
        try:
            for tensor in read_pth(damaged).values():
                tensor.numpy_dtype()
                tensor.open().tobytes()
        except ValueError as error:
            assert "damaged.pth" in str(error)
            refused += 1
    assert refused > 100

"""Names of folders: on a disk, on object storage, and neither."""

import os
import pathlib

import pytest

from llama3_jax.core.paths import path_of


def test_a_folder_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = path_of("runs/a") / "b.txt"
    assert os.fspath(path) == str(tmp_path / "runs" / "a" / "b.txt")
    path.parent.mkdir(parents=True)
    path.write_text("text")
    assert pathlib.Path("runs/a/b.txt").read_text() == "text"


@pytest.mark.parametrize("name", ["gs://bucket/run", "s3://bucket/run"])
def test_a_url_stays_one(name):
    path = path_of(name) / "checkpoints"
    assert str(path) == os.fspath(path) == f"{name}/checkpoints"
    assert str(path.with_suffix(".tmp").parent) == name
    assert path_of(str(path)) == path


@pytest.mark.parametrize("name", ["hdfs://host/run", "memory://run", "az://run"])
def test_other_urls_are_refused_and_become_no_folder(name):
    with pytest.raises(ValueError, match=f"{name}: files are written to a folder or to gs:// or s3://"):
        path_of(name)

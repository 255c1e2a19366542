"""A folder that appears whole or not at all.

Everything is written beside the wanted folder, in `FOLDER.partial`, and renamed when it is complete. What was there
before stays until then, and is given up only when it was made by a conversion, someone asked for it, and the disk has
all of what replaces it.
"""

import contextlib
import fnmatch
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

from llama3_jax.train.load import CONVERTED

# What a conversion writes; a folder with anything else in it is never replaced.
WRITTEN = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "params.json"),
    *(
        "consolidated.*.pth",
        "tokenizer*.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "tokenizer.model",
        "0",
    ),
)


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Yields an empty folder that becomes `folder` if the block ends well, and is removed if it does not.

    Raises ValueError when `folder` holds anything, or, with `overwrite`, anything that no conversion wrote; and when
    the remains of a conversion that was killed are there and `overwrite` is not given.
    """
    check_output(folder, overwrite)
    partial = _beside(folder, "partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        _put_in_place(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_output(folder: pathlib.Path, overwrite: bool) -> None:
    """Raises ValueError when `folder` cannot be given to a conversion; see `whole_folder`."""
    partial = _beside(folder, "partial")
    if partial.exists() and not overwrite:
        raise ValueError(f"{partial} is there: another conversion is writing it, or was killed; then give --overwrite")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names and not overwrite:
        raise ValueError(f"{folder} is not empty; choose another folder, or replace it with --overwrite")
    for name in names:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in WRITTEN) or _is_trained(folder / name):
            raise ValueError(f"{folder} holds {name}, which no conversion writes; it is not replaced")


def _is_trained(path: pathlib.Path) -> bool:
    """Whether this is a step's checkpoint that a run saved, and not one of converted weights."""
    return path.is_dir() and CONVERTED not in json.loads((path / "run" / "metadata").read_text(encoding="utf-8"))


def _put_in_place(partial: pathlib.Path, folder: pathlib.Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = _beside(folder, "old")
    os.sync()
    folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old)


def _beside(folder: pathlib.Path, suffix: str) -> pathlib.Path:
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}.{suffix}")

"""Paths that may be URLs: a run's folder is on a disk that its hosts share, or on object storage."""

import os

from etils import epath

SCHEMES = ("gs", "s3")  # those that epath, Orbax and tensorboardX all write to


def path_of(name: str) -> epath.Path:
    """`name` as a path with the interface of `pathlib`: absolute on a disk, or `gs://bucket/...`, `s3://bucket/...`.

    Raises ValueError for a URL of another kind, which would become a local folder of that name.
    """
    if not is_url(name):
        return epath.Path(os.path.abspath(name))
    if name.partition("://")[0] not in SCHEMES:
        raise ValueError(f"{name}: files are written to a folder or to {' or '.join(f'{s}://' for s in SCHEMES)}")
    return epath.Path(name)


def is_url(name: str) -> bool:
    """True for a name on object storage, where a file is written whole or not at all and cannot be appended to."""
    return "://" in name


def url_of(path: epath.Path) -> str:
    """The path as a URL of TensorStore's, `file://` for one on a disk."""
    return str(path) if is_url(str(path)) else f"file://{os.path.abspath(path)}"

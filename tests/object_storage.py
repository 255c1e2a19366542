"""Object storage in memory: what epath and TensorBoard write to gs:// lands in one dict of this process."""

import io

from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from tensorboardX import record_writer


class Bucket(MemoryFileSystem):
    """gs://bucket, empty at first, in which nothing can be appended to."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def _open(self, path, mode="rb", **options):
        if mode not in ("rb", "wb"):
            raise ValueError(f"an object cannot be opened with mode {mode}")
        return super()._open(path, mode, **options)

    def files(self) -> list[str]:
        """Names of all objects."""
        return [path.removeprefix("/bucket/") for path in self.find("/bucket")]


class _BoardWriter(io.BytesIO):
    """TensorBoard's file: the object is what was written at the last flush."""

    def __init__(self, bucket, path):
        super().__init__()
        self._bucket, self._path = bucket, path

    def flush(self):
        self._bucket.pipe_file(self._path, self.getvalue())

    def close(self):
        self.flush()

    fileno = property()  # tensorboardX would sync a file that has one


class _BoardFiles:
    def __init__(self, bucket):
        self._bucket = bucket

    def open(self, path):
        return _BoardWriter(self._bucket, path)

    def directory_check(self, path):
        """Folders of objects need no making."""


def install(monkeypatch) -> Bucket:
    """Puts a new bucket behind gs:// until `monkeypatch` is undone."""
    bucket = Bucket()
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: bucket)
    monkeypatch.setitem(record_writer.REGISTERED_FACTORIES, "gs", _BoardFiles(bucket))
    return bucket

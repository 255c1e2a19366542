"""Lists of words and phrases as files that the user supplies: of dirty words, of adult ones.

A list is a UTF-8 file with a word or phrase a line; `#` behind white space or at the start of a line begins a comment.
A folder holds one list for each language, named by its ISO 639-1 code (`de.txt`); a lone file counts in all languages.
"""

import io
import os
import re
from pathlib import PurePosixPath

import fsspec

from llama3_jax.core.files import list_files, open_file
from llama3_jax.curation.lexicon import ANY_LANGUAGE, Entry

_COMMENT = re.compile(r"(?:^|\s)#.*")


def read_entries(path: str | os.PathLike, name: str) -> list[Entry]:
    """The entries of a file or folder at a path or fsspec URL, as those of the list `name`.

    Raises FileNotFoundError, also for a folder without lists, and ValueError naming a file that has no entry.
    """
    file_system, root = fsspec.core.url_to_fs(os.fspath(path))
    if not file_system.isdir(root):
        return [Entry(phrase, name, ANY_LANGUAGE) for phrase in _read(path)]
    files = [file for _, _, file in list_files(path, (".txt",))]
    if not files:
        raise FileNotFoundError(f"{os.fspath(path)}: no files named <language>.txt")
    return [Entry(phrase, name, PurePosixPath(file).stem) for file in files for phrase in _read(file)]


def _read(path: str | os.PathLike) -> list[str]:
    with io.TextIOWrapper(open_file(path), encoding="utf-8-sig") as file:
        lines = [_COMMENT.sub("", line).strip() for line in file]
    phrases = [line for line in lines if line]
    if not phrases:
        raise ValueError(f"{os.fspath(path)}: the list is empty")
    return phrases

"""Scores that were computed elsewhere, by an encoder on accelerators say, joined to documents by their text.

A file holds JSON lines `{"id": ..., "score": ...}`, as `llama3 encoder predict` writes them for the texts of the step
`documents`; the id is that of a document of which nothing but the text is known.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import fsspec
import numpy as np

from llama3_jax.curation.identity import ID_BYTES, document_id


class GivenScores(NamedTuple):
    """Scores by text, in the order of ids."""

    ids: np.ndarray  # V16 [N]
    scores: np.ndarray  # float64 [N]

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """The score of each text, float64 [D]; NaN for one that has none."""
        wanted = np.array([text_id(text) for text in texts], f"V{ID_BYTES}")
        found = np.full(len(texts), np.nan)
        if len(self.ids):
            place = np.minimum(np.searchsorted(_key(self.ids), _key(wanted)), len(self.ids) - 1)
            same = self.ids[place] == wanted
            found[same] = self.scores[place[same]]
        return found


def text_id(text: str) -> bytes:
    """The id of a document of which nothing but the text is known."""
    return document_id("", None, text.encode("utf-8", "surrogatepass"))


def read_given(path: str) -> GivenScores:
    """Reads a file of scores, local or at any fsspec URL, compressed or not.

    Raises OSError, and ValueError that names the line that holds no id and score, or another score for an id.
    """
    ids, scores = [], []
    with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                identity, score = bytes.fromhex(row["id"]), float(row["score"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not an id and its score: {line.strip()[:80]!r}") from error
            if len(identity) != ID_BYTES:
                raise ValueError(f"{path}:{number}: {row['id']!r} is no id of {2 * ID_BYTES} hexadecimal digits")
            ids.append(identity)
            scores.append(score)
    array, values = np.array(ids, f"V{ID_BYTES}"), np.array(scores)
    order = np.argsort(_key(array), kind="stable")
    array, values = array[order], values[order]
    again = np.flatnonzero((array[1:] == array[:-1]) & (values[1:] != values[:-1]))
    if again.size:
        raise ValueError(f"{path}: {array[again[0]].tobytes().hex()} has two scores")
    return GivenScores(array, values)


def _key(ids: np.ndarray) -> np.ndarray:
    """The first half of each id, uint64: enough to find it by, since ids are hashes; equality is asked of the whole."""
    return ids.view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)

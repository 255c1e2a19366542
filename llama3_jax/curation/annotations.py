"""What curation says about documents: scores of whole ones, and spans within them. It never deletes (Llama 3, 3.1).

A stage looks at a batch of texts and returns columns; thresholds are applied to them at the end, so that they can be
changed without computing anything again.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Scores = Mapping[str, np.ndarray]
"""name -> a number, or a category as a string, for each document of a batch; NaN or "" where there is none."""


class Spans(NamedTuple):
    """Parts of texts, one entry each, ordered by document and start. Offsets count characters (code points)."""

    row: np.ndarray  # int64: the document's index within the batch
    start: np.ndarray  # int64
    end: np.ndarray  # int64, exclusive
    score: np.ndarray  # float64: what it means is the stage's to say

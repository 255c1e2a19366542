"""Documents whose label can be read off them: pages about two things, one of which is wanted."""

import numpy as np


def _words(text):
    return text.split()


GOOD = _words("theorem proof lemma integer prime algebra derive equation therefore limit")
BAD = _words("cheap click buy sale winner casino offer discount subscribe prize")
PLAIN = _words("the of and a in to is for on with as by page there many more some time one other")


def planted(num: int, seed: int, classes: int = 2) -> tuple[list[str], np.ndarray]:
    """Texts of 4 to 27 words, mostly plain ones, and the class that their few telling words give."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, num)
    texts = []
    for label in labels:
        length = int(rng.integers(4, 28))
        words = rng.choice(PLAIN, length)
        telling = rng.random(length) < 0.25
        telling[rng.integers(length)] = True
        good = rng.random(length) < label / (classes - 1)
        words = np.where(telling, np.where(good, rng.choice(GOOD, length), rng.choice(BAD, length)), words)
        texts.append(" ".join(words))
    return texts, labels.astype(np.float32)

"""Text to measure curation on: the standard library's sources and documentation in pieces, and mutations of them."""

import random

from llama3_jax.data.stdlib_corpus import standard_library

_MEAN_CHARS = 4000


def documents(num_chars: int, *, seed: int = 0) -> list[str]:
    """Documents of at least `num_chars` together, log-normal in length; each time round, more lines are changed."""
    rng = random.Random(seed)
    lines = [line for document in standard_library() for line in document.text.splitlines(keepends=True)]
    found, total, changed = [], 0, 0.0
    while total < num_chars:
        place = 0
        while place < len(lines) and total < num_chars:
            wanted, piece = rng.lognormvariate(0, 1) * _MEAN_CHARS / 1.65, []
            while place < len(lines) and wanted > 0:
                line = rng.choice(lines) if rng.random() < changed else lines[place]
                piece.append(line)
                wanted -= len(line)
                place += 1
            found.append("".join(piece))
            total += len(found[-1])
        changed = min(changed + 0.05, 0.5)
    return found

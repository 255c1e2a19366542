"""How fast is curation from HTML to kept text, in how much memory and on how much disk? One JSON line.

    python -m benchmarks.curation_pipeline --documents=20000 --workers=1
    python -m benchmarks.curation_pipeline --documents=1000000    # some 10 GB of disk, in --folder

Pages are made of paragraphs of the standard library's help topics: three to twelve drawn at random, a tenth of their
words changed, between a page's usual navigation and footer; one page in ten is a near-copy of an earlier one, one in
twenty an older version of the same URL. The rules are the defaults. Seconds are those of each step on the clock, so
with one worker and a quiet machine they are core-seconds; megabytes are those of the HTML. Pages are written one by
one and partitions hold 20,000 documents, so memory does not grow with the number of pages: `parent_peak_mb` and
`worker_peak_mb` are the resident memory of this process and of the largest worker at their peaks, `disk_mb` what lies
on disk at the end, pages included.
"""

import argparse
import gzip
import json
import pathlib
import random
import resource
import shutil
import tempfile
import time
from pydoc_data import topics

from llama3_jax.curation.curation_config import CurationConfig, SourceEntry
from llama3_jax.curation.pipeline import make_steps
from llama3_jax.curation.runner import RunnerConfig, run_steps

PER_FILE = 5_000  # pages
PER_PARTITION, FEWEST_PARTITIONS = 20_000, 8
CORPUS_TB = 100


def paragraphs() -> list[str]:
    """Prose of more than 200 characters."""
    found = (" ".join(text.split()) for topic in topics.topics.values() for text in topic.split("\n\n"))
    return sorted({text for text in found if len(text) > 200})


def mutate(text: str, share: float, words: list[str], rng: random.Random) -> str:
    """The text with a share of its words replaced."""
    return " ".join(rng.choice(words) if rng.random() < share else word for word in text.split(" "))


def page(title: str, body: list[str]) -> str:
    """HTML as a content management system writes it."""
    links = "".join(f'<li class="menu-item"><a href="/{i}">Section {i}</a></li>' for i in range(12))
    text = "\n".join(f'<p class="paragraph">{paragraph}</p>' for paragraph in body)
    head = f'<head><title>{title}</title><meta charset="utf-8"><script>var a = {{"page": 1}};</script></head>'
    return (
        f"<!doctype html><html>{head}<body><nav><ul>{links}</ul></nav><main><article><h1>{title}</h1>{text}</article>"
        f'</main><aside class="related"><ul>{links}</ul></aside><footer>All rights reserved.</footer></body></html>'
    )


def write_pages(folder: pathlib.Path, count: int) -> int:
    """Writes pages as JSON lines, gzipped; returns their bytes of HTML."""
    rng, pool = random.Random(0), paragraphs()
    words = sorted({word for text in pool for word in text.split(" ")})
    folder.mkdir()
    body: list[str] = []
    num_bytes = 0
    for first in range(0, count, PER_FILE):
        with gzip.open(folder / f"{first // PER_FILE:05}.jsonl.gz", "wt", compresslevel=1) as file:
            for i in range(first, min(count, first + PER_FILE)):
                is_copy = bool(body) and i % 10 == 9
                fresh = body if is_copy else rng.sample(pool, rng.randint(3, 12))
                body = [mutate(text, 0.002 if is_copy else 0.1, words, rng) for text in fresh]
                html = page(f"Page {i}", body)
                url = f"https://host{i % 997}.test/{i - i % 20 if i % 20 == 1 else i}"
                row = {"url": url, "date": f"20{10 + i % 14}-01-01T00:00:00Z", "html": html}
                file.write(json.dumps(row) + "\n")
                num_bytes += len(html)
    return num_bytes


def peak_mb(who: int) -> int:
    """Resident memory at its peak: of this process, or of the largest of those that it has waited for."""
    return round(resource.getrusage(who).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--partitions", type=int, help=f"default: one for {PER_PARTITION} documents")
    parser.add_argument("--folder", help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    if options.folder:
        pathlib.Path(options.folder).mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=options.folder))
    num_bytes = write_pages(folder / "pages", options.documents)
    partitions = options.partitions or max(FEWEST_PARTITIONS, options.documents // PER_PARTITION)
    config = CurationConfig(
        workdir=str(folder / "work"),
        output=str(folder / "out"),
        output_files=partitions,
        sources={"pages": SourceEntry(paths=(str(folder / "pages"),))},
        language="en",
        partitions=partitions,
        shuffle_parts=partitions,
        runner=RunnerConfig(workers=options.workers),
    )
    steps = make_steps(config)
    started = time.monotonic()
    run_steps(list(steps.values()), config.workdir, config.runner)
    seconds = time.monotonic() - started
    kept = steps["publish"].results(config.workdir).total()
    result = {
        "benchmark": "curation_pipeline",
        "documents": options.documents,
        "workers": options.workers,
        "html_mb": round(num_bytes / 1e6, 1),
        "seconds": round(seconds, 1),
        "mb_per_second": round(num_bytes / 1e6 / seconds, 2),
        "documents_per_second": round(options.documents / seconds),
        "kept": kept["documents"],
        "kept_share": round(kept["documents"] / options.documents, 3),
        "partitions": partitions,
        "parent_peak_mb": peak_mb(resource.RUSAGE_SELF),
        "worker_peak_mb": peak_mb(resource.RUSAGE_CHILDREN),
        "disk_mb": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6),
        f"core_hours_for_{CORPUS_TB}_tb": round(
            CORPUS_TB * 1e6 / (num_bytes / 1e6 / seconds / max(1, options.workers)) / 3600
        ),
    }
    print(json.dumps(result))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

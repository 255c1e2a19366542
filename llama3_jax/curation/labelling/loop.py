"""The loop: asks the judge about every document that has no label yet, several at a time."""

import collections
import concurrent.futures
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import tqdm

from llama3_jax.curation.labelling.judge import Answer, JobError, JudgeError
from llama3_jax.curation.labelling.labels import Label, LabelFile
from llama3_jax.curation.labelling.rubrics import SCALES, Messages, Question, prompt_hash
from llama3_jax.curation.labelling.verdict import read_verdict

CHARS_PER_TOKEN = 3.5  # of web text in several languages, low rather than high: the estimate is to err upwards
AskJudge = Callable[[Messages], Answer]


class Page(NamedTuple):
    """A document to be labelled."""

    id: str  # hexadecimal
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How many questions are under way, and when to give up."""

    concurrency: int = 16
    max_failures_in_a_row: int = 20  # documents for which the judge gave no answer at all; then the job stops

    def __post_init__(self):
        for field in ("concurrency", "max_failures_in_a_row"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """What became of the documents of a job, those of earlier runs of it included."""

    kind: str
    labels: Mapping[int, int]  # label -> documents
    unreadable: Mapping[str, int]  # reason -> documents
    failed: Mapping[str, int]  # reason -> documents that were asked for in vain; they will be asked again
    asked: int  # answers of this run
    prompt_tokens: int  # of this run, as the judge counts
    answer_tokens: int

    @property
    def lines(self) -> list[str]:
        """The report for people: the distribution of labels, then what has none and why."""
        total = sum(self.labels.values())
        lowest, highest = SCALES[self.kind]
        lines = [f"{total:,} labels, {self.asked:,} answers in this run"]
        for label in range(lowest, highest + 1):
            count = self.labels.get(label, 0)
            share = count / max(1, total)
            lines.append(f"  {label}  {count:>9,}  {share:6.1%}  {'#' * round(40 * share)}".rstrip())
        if total:
            mean = sum(label * count for label, count in self.labels.items()) / total
            lines.append(f"  mean {mean:.2f}")
        for title, reasons in (("without a label", self.unreadable), ("without an answer", self.failed)):
            for reason, count in sorted(reasons.items()):
                lines.append(f"  {count:,} {title}: {reason}")
        if self.asked:
            lines.append(f"  {self.prompt_tokens:,} tokens of prompts, {self.answer_tokens:,} of answers")
        return lines


class CostEstimate(NamedTuple):
    """What labelling is going to take, before anything is asked."""

    documents: int
    prompt_tokens: int
    answer_tokens: int  # at most
    dollars: float | None

    def __str__(self) -> str:
        price = "" if self.dollars is None else f", ${self.dollars:,.2f} at most"
        return (
            f"{self.documents:,} documents to ask about: about {self.prompt_tokens:,} tokens of prompts, "
            f"{self.answer_tokens:,} of answers at most{price}"
        )


def estimate_cost(
    pages: Iterable[Page], question: Question, max_tokens: int, dollars_per_million: tuple[float, float] | None = None
) -> CostEstimate:
    """Tokens and price of asking about pages; prices are of a million prompt and answer tokens."""
    fixed = sum(len(message["content"]) for message in question.messages(""))
    count = chars = 0
    for page in pages:
        count += 1
        chars += fixed + min(len(page.text), question.max_chars)
    prompt, answer = round(chars / CHARS_PER_TOKEN), count * max_tokens
    dollars = None
    if dollars_per_million is not None:
        dollars = (prompt * dollars_per_million[0] + answer * dollars_per_million[1]) / 1e6
    return CostEstimate(count, prompt, answer, dollars)


def label_pages(
    pages: Iterable[Page],
    judge: AskJudge,
    question: Question,
    sampling: Mapping[str, object],
    file: LabelFile,
    config: LoopConfig = LoopConfig(),
) -> LabelReport:
    """Asks about every page that has no answer in `file` to this question, and writes each answer as it comes.

    `sampling` is what decides an answer besides the question, the model's name among it (`JudgeConfig.sampling`). No
    more than `config.concurrency` pages are under way, and no more are taken from `pages`. Lines stand in the order in
    which answers came; everything else is a function of the pages and the answers.

    Raises JobError, everything answered being in the file, when the judge refuses the job or fails too often in a row.
    """
    work = _Work(question, prompt_hash(question, sampling), str(sampling["model"]), judge, file)
    seen: set[str] = set()
    counts: collections.Counter[str] = collections.Counter()
    failed: collections.Counter[str] = collections.Counter()
    in_a_row = 0
    with _progress() as progress, concurrent.futures.ThreadPoolExecutor(config.concurrency) as pool:
        missing = work.missing(pages, seen)
        running = {pool.submit(work.ask, page) for page in itertools.islice(missing, config.concurrency)}
        try:
            while running:
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    answer, failure = future.result()
                    if failure is None:
                        in_a_row = 0
                        counts.update(asked=1, prompt=answer.prompt_tokens, answer=answer.answer_tokens)
                    else:
                        in_a_row += 1
                        failed[failure] += 1
                        if in_a_row >= config.max_failures_in_a_row:
                            raise JobError(f"{in_a_row} documents in a row had no answer, the last for: {failure}")
                    progress.update()
                running |= {pool.submit(work.ask, page) for page in itertools.islice(missing, len(done))}
        except BaseException:
            for future in running:
                future.cancel()
            raise
    return work.report(seen, counts, failed)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all questions of a job have in common."""

    question: Question
    prompt: str
    model: str
    judge: AskJudge
    file: LabelFile

    def missing(self, pages: Iterable[Page], seen: set[str]) -> Iterator[Page]:
        """Pages without an answer, each id once; `seen` collects the ids of all."""
        for page in pages:
            if page.id not in seen:
                seen.add(page.id)
                if (page.id, self.prompt) not in self.file:
                    yield page

    def ask(self, page: Page) -> tuple[Answer, str | None]:
        """The answer, written to the file; or why there is none. Raises JobError."""
        try:
            answer = self.judge(self.question.messages(page.text))
        except JobError:
            raise
        except JudgeError as error:
            return Answer("", None, 0, 0), str(error)
        verdict = read_verdict(answer.text, self.question.kind, answer.finish)
        self.file.add(
            Label(
                id=page.id,
                prompt=self.prompt,
                variant=self.question.variant,
                kind=self.question.kind,
                model=self.model,
                label=verdict.label,
                reason=verdict.reason,
                answer=answer.text,
            )
        )
        return answer, None

    def report(self, seen: set[str], counts: Mapping[str, int], failed: Mapping[str, int]) -> LabelReport:
        labels: collections.Counter[int] = collections.Counter()
        unreadable: collections.Counter[str] = collections.Counter()
        for identity in seen:
            found = self.file.labels.get((identity, self.prompt))
            if found is not None and found.label is not None:
                labels[found.label] += 1
            elif found is not None:
                unreadable[found.reason or ""] += 1
        return LabelReport(
            kind=self.question.kind,
            labels=dict(labels),
            unreadable=dict(unreadable),
            failed=dict(failed),
            asked=counts.get("asked", 0),
            prompt_tokens=counts.get("prompt", 0),
            answer_tokens=counts.get("answer", 0),
        )


def _progress() -> tqdm.tqdm:
    return tqdm.tqdm(unit="page", desc="label", disable=not sys.stderr.isatty())

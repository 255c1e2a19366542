"""A file of prompts and a file of answers: jobs that can be cut off and taken up again.

Each answer's seed comes from the job's and its own number, so it does not matter which answers were there already.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.messages import check_messages, read_messages, write_messages
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.generator import Completion
from llama3_jax.infer.request import Request, SamplingConfig

Number = tuple[int, int]  # of the prompt, of the answer to it
OWN_KEYS = ("index", "sample", "answer", "finish")


@dataclasses.dataclass(frozen=True)
class Ask:
    """A line of the file of prompts: `record` has "prompt" or "messages", and maybe more that is passed on."""

    record: Mapping[str, Any]

    def tokens(self, tokenizer: Tokenizer) -> list[int]:
        """The prompt as tokens. Raises ValueError for messages that are no dialog."""
        if "prompt" in self.record:
            return tokenizer.encode(self.record["prompt"], bos=True)
        return ChatFormat(tokenizer).encode(read_messages(self.record["messages"]), prompt=True).ids.tolist()


def read_asks(path: str) -> list[Ask]:
    """All prompts of a file. Raises ValueError naming the line that is none, and for a file without lines."""
    asks = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                asks.append(Ask(_record(line)) if path.endswith(".jsonl") else Ask({"prompt": line}))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if not asks:
        raise ValueError(f"{path} has no prompts")
    return asks


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict) or ("prompt" in record) == ("messages" in record):
        raise ValueError('not an object with either "prompt" or "messages"')
    if not isinstance(record.get("prompt", ""), str):
        raise ValueError('"prompt" is not a text')
    if "messages" in record:
        check_messages(read_messages(record["messages"]))
    return record


def requests_of(
    asks: Sequence[Ask], numbers: Sequence[Number], tokenizer: Tokenizer, sampling: SamplingConfig
) -> list[Request]:
    """A request for each of `numbers`, with the tokenizer's stop tokens."""
    prompts: dict[int, list[int]] = {}
    requests = []
    for index, sample in numbers:
        if index not in prompts:
            try:
                prompts[index] = asks[index].tokens(tokenizer)
            except ValueError as error:
                raise ValueError(f"prompt {index}: {error}") from error
        settings = dataclasses.replace(
            sampling, stop_ids=tokenizer.stop_ids, seed=sampling.seed + (index << 20) + sample
        )
        requests.append(Request(prompt=prompts[index], sampling=settings))
    return requests


class AnswerFile:
    """Answers as JSON lines, each written as soon as it is there."""

    def __init__(self, file: io.TextIOBase, asks: Sequence[Ask], missing: list[Number]):
        """`missing`: the answers still to be written. Use `open`."""
        self.asks, self.missing, self._file = asks, missing, file

    @classmethod
    def open(cls, path: str, asks: Sequence[Ask], num_samples: int) -> "AnswerFile":
        """A new file, or one that was begun: a last line that was cut off is cut away.

        Raises ValueError when the file holds something else than answers to these prompts; it is left as it is.
        """
        wanted = [(index, sample) for index in range(len(asks)) for sample in range(num_samples)]
        there: set[Number] = set()
        old = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
        whole = old[: old.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            there.add(_number_of(line, asks, f"{path}, line {number}"))
        strangers = there - set(wanted)
        if strangers:
            raise ValueError(
                f"{path} has answers that are not asked for, such as {min(strangers)}; choose another file"
            )
        if whole != old:
            Path(path).write_text(whole, encoding="utf-8")
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by __exit__)
        return cls(file, asks, [number for number in wanted if number not in there])

    def add(self, number: Number, completion: Completion, tokenizer: Tokenizer) -> None:
        """Writes an answer."""
        index, sample = number
        record = dict(self.asks[index].record)
        answer: Any = completion.text
        if "messages" in record:
            (answer,) = write_messages([ChatFormat(tokenizer).decode(completion.tokens)])
        own = (index, sample, answer, str(completion.finish))
        line = json.dumps(record | dict(zip(OWN_KEYS, own, strict=True)), ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _number_of(line: str, asks: Sequence[Ask], place: str) -> Number:
    try:
        record = json.loads(line)
        number = (int(record["index"]), int(record["sample"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is not an answer of an earlier job; choose another file") from error
    if not 0 <= number[0] < len(asks) or _passed_on(record) != _passed_on(asks[number[0]].record):
        raise ValueError(f"{place} answers another prompt than number {number[0]} of this job; choose another file")
    return number


def _passed_on(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in OWN_KEYS}

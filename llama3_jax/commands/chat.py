"""`llama3 chat`: a conversation in a terminal."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.commands.serving import define_model_flags, define_sampling_flags, generator_of, load, sampling_of
from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.messages import Message
from llama3_jax.infer.generator import Completion, Generator
from llama3_jax.infer.request import Request, SamplingConfig

SUMMARY = "talk with a model in a terminal"
MANUAL = """
Each line is a message; the answer is written as it comes. Control-C ends an answer, and the conversation goes on.

  /new          begin another conversation
  /system TEXT  begin another one with this system message
  /undo         take back the last message and its answer
  /quit         leave (so does Control-D)

Earlier messages stay in the cache, so a turn costs what is new in it. When the conversation outgrows --max_length its
oldest messages are left out, and a line says so.
"""
EXAMPLE = "llama3 chat --checkpoint=runs/llama3_2_1b --temperature=0.6"
PROMPT = "> "


def define_flags(values: flags.FlagValues) -> None:
    define_model_flags(values)
    flags.DEFINE_string("system", "", "system message", flag_values=values)
    flags.DEFINE_integer("max_length", 8192, "most tokens of a conversation", flag_values=values)
    define_sampling_flags(values)
    values["max_new_tokens"].value = values["max_new_tokens"].default = 1024


def run(options: Mapping[str, Any]) -> int:
    sampling = sampling_of(options)
    model = load(options)
    longest = min(options["max_length"], model.stored.model.max_length)
    if sampling.max_new_tokens >= longest:
        raise ValueError(f"--max_new_tokens={sampling.max_new_tokens} leaves no room in {longest} tokens")
    sampling = dataclasses.replace(sampling, stop_ids=model.tokenizer.stop_ids)
    talk = Conversation(generator_of(model, [longest]), ChatFormat(model.tokenizer), sampling, longest)
    talk.begin(options["system"])
    while True:
        try:
            line = input(PROMPT)
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if line.strip() == "/quit":
            return 0
        talk.take(line)


class Conversation:
    """Messages so far, and what a line does to them."""

    def __init__(self, generator: Generator, chat: ChatFormat, sampling: SamplingConfig, longest: int):
        self._generator, self._chat, self._sampling, self._longest = generator, chat, sampling, longest
        self.messages: list[Message] = []

    def begin(self, system: str = "") -> None:
        """Forgets everything."""
        self.messages = [Message(role="system", content=system)] if system else []

    def take(self, line: str) -> None:
        """Does what a line asks for."""
        word, _, rest = line.strip().partition(" ")
        if not word:
            return
        if word in ("/new", "/system"):
            self.begin(rest)
        elif word == "/undo":
            users = [number for number, message in enumerate(self.messages) if message.role == "user"]
            self.messages = self.messages[: users[-1]] if users else self.messages
        elif word.startswith("/"):
            print(f"no such command; there are {', '.join(COMMANDS)}")
        else:
            self._answer(line)

    def _answer(self, line: str) -> None:
        self.messages.append(Message(role="user", content=line))
        prompt = self._fitting()
        if prompt is None:
            self.messages.pop()
            print("this message alone is longer than a conversation may be")
            return
        sampling = dataclasses.replace(self._sampling, seed=self._sampling.seed + len(self.messages))
        request = Request(prompt=prompt, sampling=sampling)
        completion = Completion(request)
        self._generator.submit(request)
        try:
            self._write(completion)
        except KeyboardInterrupt:
            self._generator.cancel(request)
            self._write(completion)
        print()
        self.messages.append(dataclasses.replace(self._chat.decode(completion.tokens), end=None))

    def _write(self, completion: Completion) -> None:
        """Writes an answer until it ends."""
        while not self._generator.idle:
            for progress in self._generator.step():
                completion.add(progress)
                sys.stdout.write(progress.text)
                sys.stdout.flush()

    def _fitting(self) -> list[int] | None:
        """The conversation as tokens, without its oldest messages where it is too long; None if the last one is."""
        kept = list(self.messages)
        system = [message for message in kept if message.role == "system"]
        while True:
            ids = self._chat.encode(kept, prompt=True).ids
            if len(ids) + self._sampling.max_new_tokens <= self._longest:
                break
            rest = kept[len(system) :]
            following = next((n for n, message in enumerate(rest) if n and message.role == "user"), None)
            if following is None:
                return None
            kept = [*system, *rest[following:]]
        if len(kept) < len(self.messages):
            print(f"({len(self.messages) - len(kept)} old messages are left out)")
        return ids.tolist()


COMMANDS = ("/new", "/system TEXT", "/undo", "/quit")

"""`llama3 generate`: text from a trained model, for one prompt or a file of them."""

import sys
from collections.abc import Mapping
from typing import Any

from absl import flags
from tqdm import tqdm

from llama3_jax.commands.serving import define_model_flags, define_sampling_flags, generator_of, load, sampling_of
from llama3_jax.infer.answers import AnswerFile, Ask, read_asks, requests_of

SUMMARY = "sample text from a trained model"
MANUAL = """
Continues --prompt with the model in --checkpoint (a run's folder, one of its checkpoint folders, or converted weights).
Greedy with --temperature=0. The same seed gives the same text.

With --prompts, answers a file into --output, many at a time. A line of a .jsonl file is an object with "prompt", or
with "messages" in the form of OpenAI's API; a line of any other file is a prompt. Each line of the output is the object
with "index", "sample", "answer" (for messages: a message, tool calls read) and "finish". Lines stand in the order in
which answers end. A job that was cut off goes on where it stopped when the same command is given again.
"""
EXAMPLE = """
llama3 generate --checkpoint=runs/quickstart/model --prompt="def read(path):" --temperature=0.8
llama3 generate --checkpoint=runs/quickstart/model --prompts=prompts.jsonl --num_samples=4 --output=answers.jsonl
"""


def define_flags(values: flags.FlagValues) -> None:
    define_model_flags(values)
    flags.DEFINE_string("prompt", "", "text to continue", flag_values=values)
    flags.DEFINE_string("prompts", None, "file of prompts", flag_values=values)
    flags.DEFINE_string("output", None, "file for the answers to --prompts", flag_values=values)
    flags.DEFINE_integer("num_samples", 1, "answers to each prompt", flag_values=values, lower_bound=1)
    define_sampling_flags(values)


def run(options: Mapping[str, Any]) -> int:
    sampling = sampling_of(options)
    if (options["prompts"] is None) != (options["output"] is None):
        raise ValueError("--prompts and --output go together")
    if options["prompts"] is None:
        return _one(options, sampling)
    if options["prompt"]:
        raise ValueError("give --prompt or --prompts, not both")
    asks = read_asks(options["prompts"])
    with AnswerFile.open(options["output"], asks, options["num_samples"]) as answers:
        if answers.missing:
            _many(options, sampling, answers)
    print(f"{options['output']}: {len(asks) * options['num_samples']:,} answers")
    return 0


def _one(options: Mapping[str, Any], sampling) -> int:
    model = load(options)
    (request,) = requests_of([Ask({"prompt": options["prompt"]})], [(0, 0)], model.tokenizer, sampling)
    generator = generator_of(model, [request.num_tokens])
    sys.stdout.write(options["prompt"])
    for progress in generator.generate([request]):
        sys.stdout.write(progress.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _many(options: Mapping[str, Any], sampling, answers: AnswerFile) -> None:
    model = load(options)
    requests = requests_of(answers.asks, answers.missing, model.tokenizer, sampling)
    generator = generator_of(model, [request.num_tokens for request in requests])
    numbers = dict(zip(requests, answers.missing, strict=True))
    total = len(answers.asks) * options["num_samples"]
    tokens = 0
    with tqdm(total=total, initial=total - len(requests), unit="answer", dynamic_ncols=True) as bar:
        for completion in generator.completions(requests):
            answers.add(numbers[completion.request], completion, model.tokenizer)
            tokens += len(completion.tokens)
            rate = tokens / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            bar.update()

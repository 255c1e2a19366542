"""`llama3 serve`: a model over HTTP, as OpenAI's API."""

import logging
import pathlib
import socket
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from llama3_jax.commands.serving import LoadedModel, define_model_flags, load, pages_that_fit
from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.dialects import DIALECTS
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.scheduler import SchedulerConfig

SUMMARY = "answer requests over HTTP, as OpenAI's API"
MANUAL = """
Serves the model in --checkpoint (a run's folder, or converted weights) at http://HOST:PORT: /v1/models,
/v1/completions, /v1/chat/completions, /tokenize, /detokenize, /tokenizer_info, /health, /metrics for Prometheus, and a
page to chat at /. docs/serving.md has examples. Prints one line when it is ready.

--num_slots requests run together and up to --max_waiting wait; more get status 429. A request runs when its prompt and
its longest answer fit into free pages of the cache, so nothing that runs is ever put off.

A program is compiled when the first request comes that needs it, and everybody waits for it: some seconds each, some
tens of them. --warm_up does that before the line that says ready. With JAX_COMPILATION_CACHE_DIR=FOLDER in the
environment JAX keeps them for the next start.

SIGTERM lets what runs finish for --drain_seconds while new requests get 503; a second one ends it at once.
"""
EXAMPLE = """
llama3 serve --checkpoint=runs/llama3_2_1b
llama3 serve --checkpoint=runs/llama3_1_70b --tensor=8 --host=0.0.0.0 --api_key_file=key.txt
"""
LONGEST = 8192  # tokens, of a model that could take more, unless --max_length says so


def define_flags(values: flags.FlagValues) -> None:
    """The flags, with the engine's own defaults."""
    sizes = SchedulerConfig()
    define_model_flags(values)
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0 is all", flag_values=values)
    flags.DEFINE_integer("port", 8000, "port to listen on; 0 is a free one", 0, 65535, flag_values=values)
    flags.DEFINE_integer("num_slots", sizes.num_slots, "requests that run together", 1, flag_values=values)
    flags.DEFINE_integer("num_pages", None, "pages of the cache (default: what fits)", 1, flag_values=values)
    flags.DEFINE_integer("page_size", sizes.page_size, "tokens of a page", 1, flag_values=values)
    flags.DEFINE_integer(
        "max_length", None, f"tokens of prompt and answer (default: the model's, {LONGEST} at most)", flag_values=values
    )
    flags.DEFINE_integer("prefill_tokens", sizes.prefill_tokens, "tokens of prompts in a step", 1, flag_values=values)
    flags.DEFINE_integer("max_waiting", sizes.max_waiting, "requests that may wait", 1, flag_values=values)
    flags.DEFINE_integer("chat_tokens", 1024, "longest answer where a chat sets none", 1, flag_values=values)
    flags.DEFINE_float("request_seconds", None, "time after which a request is given up", 0, flag_values=values)
    flags.DEFINE_float("drain_seconds", 30.0, "time to finish after SIGTERM", 0, flag_values=values)
    flags.DEFINE_float("max_body_mb", 8.0, "largest body of a request", 0, flag_values=values)
    flags.DEFINE_string("api_key", None, "bearer key that clients must send", flag_values=values)
    flags.DEFINE_string("api_key_file", None, "file with that key", flag_values=values)
    flags.DEFINE_string("served_model_name", None, "the model's name (default: its folder's)", flag_values=values)
    flags.DEFINE_enum("dialect", "meta", list(DIALECTS), "spelling of chats and tool calls", flag_values=values)
    flags.DEFINE_boolean("warm_up", False, "compile the usual programs before being ready", flag_values=values)


def run(options: Mapping[str, Any]) -> int:
    try:
        from llama3_jax import serve
    except ModuleNotFoundError as error:
        raise ImportError(f"serving needs more packages ({error}): pip install 'llama3_jax[serve]'") from error
    api_key = _read_key(options)
    with serve.listen(options["host"], options["port"]) as listener:  # first: a port that is taken is soon known
        model = load(options)
        sizes = _sizes(options, model)

        def make_generator() -> Generator:
            generator = Generator(model.engine(sizes), model.tokenizer)
            if options["warm_up"]:
                serve.warm_up(generator)
            return generator

        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        metrics = serve.Metrics()
        context = serve.Context(
            service=serve.Service(make_generator, metrics),
            tokenizer=model.tokenizer,
            chat=ChatFormat(model.tokenizer, dialect=options["dialect"]),
            metrics=metrics,
            limits=serve.Limits(
                max_length=sizes.max_length,
                max_body=int(options["max_body_mb"] * 2**20),
                request_seconds=options["request_seconds"],
                chat_tokens=options["chat_tokens"],
            ),
            model=options["served_model_name"] or pathlib.Path(options["checkpoint"]).resolve().name,
            api_key=api_key,
        )
        ready = f"ready: {context.model} at {_place(listener)}, {sizes.num_slots} slots, "
        ready += f"{sizes.num_pages} pages of {sizes.page_size}"
        serve.serve(context, listener, options["drain_seconds"], lambda: print(ready, flush=True))
    return 0


def _place(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _read_key(options: Mapping[str, Any]) -> str | None:
    if options["api_key_file"] is None:
        return options["api_key"]
    key = pathlib.Path(options["api_key_file"]).read_text(encoding="utf-8").strip()
    if not key:
        raise ValueError(f"{options['api_key_file']} is empty; it should hold the key")
    return key


def _sizes(options: Mapping[str, Any], model: LoadedModel) -> SchedulerConfig:
    max_length = options["max_length"] or min(model.stored.model.max_length, LONGEST)
    given = {name: options[name] for name in ("num_slots", "page_size", "prefill_tokens", "max_waiting")}
    smallest = min(SchedulerConfig().smallest_piece, options["prefill_tokens"])
    most = options["num_slots"] * -(-max_length // options["page_size"])
    num_pages = options["num_pages"] or pages_that_fit(model, options["page_size"], most)
    return SchedulerConfig(**given, num_pages=num_pages, max_length=max_length, smallest_piece=smallest)

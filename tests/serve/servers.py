"""A tiny model as a checkpoint, and servers of it: in this process, or one of their own."""

import contextlib
import dataclasses
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import httpx
import jax
import numpy as np

from llama3_jax.commands import serving
from llama3_jax.commands.serving import LoadedModel
from llama3_jax.core.config import to_dict
from llama3_jax.core.params import init_params
from llama3_jax.core.sharding import MeshConfig, make_mesh
from llama3_jax.data.chat import ChatFormat
from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.infer.engine import BatchResult, Scores
from llama3_jax.infer.generator import Generator
from llama3_jax.infer.scheduler import SchedulerConfig
from llama3_jax.model.layers import ComputeConfig
from llama3_jax.model.llama import Llama, LlamaConfig
from llama3_jax.serve import Context, Limits, Metrics, Server, Service, listen
from llama3_jax.train.checkpoint import Checkpoints
from llama3_jax.train.load import ConvertedConfig

CONFIG = LlamaConfig(
    vocab_size=512, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=64, max_length=2048
)
COMPUTE = ComputeConfig(compute_dtype="float32", attention="reference", remat="none")
SIZES = SchedulerConfig(num_slots=8, num_pages=256, page_size=16, max_length=2048, prefill_tokens=256, max_waiting=32)
MODEL = "tiny"


def write_checkpoint(folder: pathlib.Path, tokenizer: pathlib.Path, sharpness: float = 2.0):
    """Random weights, sharper than usual so that texts wander, with a tokenizer beside them."""
    folder.mkdir(parents=True)
    shutil.copy(tokenizer, folder / "tokenizer.model")
    params = init_params(Llama(CONFIG, COMPUTE), 3, make_mesh(MeshConfig(), jax.devices()[:1]))
    params = jax.tree.map(lambda x: sharpness * x, params)
    converted = ConvertedConfig(model=CONFIG, compute=COMPUTE, tokenizer="tokenizer.model", source="tests")
    fingerprint = Tokenizer.load(tokenizer).fingerprint
    run = {"step": 0, "tokens": 0, "sequence_length": 64, "fingerprints": {"tokenizer": fingerprint}}
    checkpoints = Checkpoints(str(folder))
    checkpoints.save(0, {"params": params}, run | {"converted": to_dict(converted)})
    checkpoints.close()


def load(folder: pathlib.Path) -> LoadedModel:
    """The checkpoint on one device."""
    return serving.load({"checkpoint": str(folder), "step": None, "tensor": 1, "stage": 1, "dtype": None})


def make_generator(trained: LoadedModel, sizes: SchedulerConfig = SIZES) -> Generator:
    return Generator(trained.engine(sizes), trained.tokenizer)


@dataclasses.dataclass
class Running:
    """A server that answers at `url`."""

    url: str
    context: Context
    server: Server
    thread: threading.Thread

    @property
    def generator(self) -> Generator:
        return self.context.service._generator

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def metric(self, name: str) -> float:
        return metric(self.url, name)


@contextlib.contextmanager
def running(make, tokenizer, *, api_key=None, drain_seconds=10.0, dialect="meta", send_buffer=None, **limits):
    """A server in a thread of this process; `make` makes its generator.

    The system holds about `send_buffer` bytes that a client has not taken yet; None leaves that to the system.
    """
    metrics = Metrics()
    service = Service(make, metrics)
    context = Context(
        service=service,
        tokenizer=tokenizer,
        chat=ChatFormat(tokenizer, dialect=dialect),
        metrics=metrics,
        limits=Limits(**({"max_length": service._generator.engine.config.max_length, "chat_tokens": 32} | limits)),
        model=MODEL,
        api_key=api_key,
    )
    listener = listen("127.0.0.1", 0)
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # connections inherit it
    server, ready = Server(context, drain_seconds), threading.Event()
    thread = threading.Thread(target=server.run, args=(listener, ready.set), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", context, server, thread)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def process(checkpoint: pathlib.Path, *flags: str, say=subprocess.DEVNULL):
    """`llama3 serve` as a process of its own; yields it and its URL, once it says that it is ready."""
    command = [sys.executable, "-m", "llama3_jax.cli", "serve", f"--checkpoint={checkpoint}", "--port=0", *flags]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=say, text=True)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        found = re.match(r"ready: \S+ at (http://\S+),", line)
        assert found, line
        yield child, found[1]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def metric(url: str, name: str) -> float:
    """One value of /metrics; `name` with its labels as they are printed."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def eventually(holds, seconds: float = 20.0) -> None:
    """Waits until `holds()`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


class ScriptedEngine:
    """An engine without a model: `answer(prompt)` gives the tokens of an answer, repeated when it is too short."""

    delay = 0

    def __init__(self, sizes: SchedulerConfig, answer, before_step=lambda: None):
        self.config, self.model_config = sizes, CONFIG
        self._answer, self._before_step = answer, before_step
        self._of_slot: dict[int, list[int]] = {}

    def admit(self, admissions) -> None:
        self._of_slot |= {each.slot: self._answer(list(each.prompt)) for each in admissions}

    def copy(self, pairs) -> None:
        pass

    def step(self, batches) -> "ScriptedTicket":
        self._before_step()
        return ScriptedTicket([self._result(batch) for batch in batches])

    def _result(self, batch) -> BatchResult:
        answers = [self._of_slot[work.slot] for work in batch.works]
        tokens = [a[(work.draw or 0) % len(a)] for work, a in zip(batch.works, answers, strict=True)]
        top = np.tile(np.arange(batch.needs.top), (len(tokens), 1))
        scores = Scores(np.full(len(tokens), -1.5), top, -1.0 - top)
        prompt = np.zeros((len(tokens), batch.piece, batch.needs.top))
        return BatchResult(np.array(tokens), scores, Scores(prompt.sum(axis=-1) - 2.5, prompt, prompt))


@dataclasses.dataclass
class ScriptedTicket:
    """What a step gave."""

    found: list[BatchResult]

    def results(self) -> list[BatchResult]:
        return self.found


def scripted(tokenizer, answer, sizes: SchedulerConfig = SIZES, before_step=lambda: None) -> Generator:
    return Generator(ScriptedEngine(sizes, answer, before_step), tokenizer)

"""Does a server lose anybody, pages or memory under 200 streaming clients, some of which are killed?

    python -m benchmarks.serve_load --seconds 300 [--clients 200 --checkpoint runs/quickstart/model]

Starts `llama3 serve` on loopback and, for so many seconds, keeps `clients` streams open from worker processes. Every
client asks, reads its answer to the end, and asks again. Besides, victims (processes with a few streams each) are ended
with SIGKILL in the middle. One JSON line at the end: requests that ended as they should, were refused (429, asked
again) and were lost (anything else, victims' aside); pages held at the end; the server's memory at the start and the
end.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

WORKERS = 8
STREAMS_OF_VICTIM = 4
VICTIM_SECONDS = 1.0  # between two kills
QUIET_SECONDS = 30.0  # for the last answers to end, and pages to be given back
HOST = "127.0.0.1"


@dataclasses.dataclass
class Tally:
    """What became of the requests of a worker."""

    done: int = 0
    refused: int = 0
    lost: int = 0
    tokens: int = 0
    first_token_seconds: list[float] = dataclasses.field(default_factory=list)
    reasons: list[str] = dataclasses.field(default_factory=list)  # of losses, the first few


async def ask(port: int, body: dict, tally: Tally) -> None:
    """One streamed request, read to its end."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data)
        status = (await reader.readline()).split(b" ")[1]
        if status in (b"429", b"503"):
            tally.refused += 1
            await asyncio.sleep(0.5)
            return
        text, first = b"", True
        while chunk := await reader.read(2**16):
            text += chunk
            if first and b'"text"' in text:
                tally.first_token_seconds.append(time.monotonic() - began)
                first = False
        ended = re.findall(rb'"finish_reason":"(\w+)"', text)
        if status == b"200" and ended == [b"length"] and b"data: [DONE]" in text and b'"error"' not in text:
            tally.done += 1
            tally.tokens += body["max_tokens"]
        else:
            tally.lost += 1
            tally.reasons.append(f"{status!r} {text[-200:]!r}")
    finally:
        writer.close()


async def client(port: int, seed: int, end: float, longest: int, tally: Tally) -> None:
    """Asks until the time is over: prompts with shared beginnings, answers of different lengths."""
    draw = random.Random(seed)
    while time.monotonic() < end:
        prompt = [5 + draw.randrange(4)] * draw.choice((3, 40, 100)) + [draw.randrange(100) for _ in range(8)]
        most = draw.randint(longest // 8, longest)
        body = {"prompt": prompt, "max_tokens": most, "stream": True, "ignore_eos": True, "temperature": 1.0}
        try:
            await ask(port, body, tally)
        except OSError as error:
            tally.lost += 1
            tally.reasons.append(repr(error))


async def work(port: int, first: int, count: int, seconds: float, longest: int) -> Tally:
    """`count` clients side by side."""
    tally, end = Tally(), time.monotonic() + seconds
    await asyncio.gather(*(client(port, first + number, end, longest, tally) for number in range(count)))
    return tally


def worker(arguments: argparse.Namespace) -> None:
    """A process of clients; prints its tally."""
    first, count = arguments.worker
    tally = asyncio.run(work(arguments.port, first, count, arguments.seconds, arguments.tokens))
    tally.reasons = tally.reasons[:3]
    print(json.dumps(dataclasses.asdict(tally)))


def start_clients(arguments: argparse.Namespace, port: int, first: int, count: int, seconds: float) -> subprocess.Popen:
    """A worker as a process."""
    command = [sys.executable, "-m", "benchmarks.serve_load", "--port", str(port), "--seconds", str(seconds)]
    command += ["--tokens", str(arguments.tokens), "--worker", str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def kill_victims(arguments: argparse.Namespace, port: int, end: float) -> int:
    """Starts clients and kills them in the middle of their answers until the time is over; how many."""
    killed = 0
    while time.monotonic() + VICTIM_SECONDS < end:
        victim = start_clients(arguments, port, 10**6 + killed, STREAMS_OF_VICTIM, 600)
        time.sleep(VICTIM_SECONDS)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        killed += 1
    return killed


def metrics_of(port: int) -> dict[str, float]:
    """The server's numbers by name."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def megabytes_of(process: int) -> float:
    """Resident memory of a process."""
    text = pathlib.Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found
    return round(int(found[1]) / 1000, 1)


@contextlib.contextmanager
def server(checkpoint: str, flags: list[str]):
    """`llama3 serve` as a process; yields its id and port."""
    command = [sys.executable, "-m", "llama3_jax.cli", "serve", f"--checkpoint={checkpoint}", "--port=0", *flags]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        found = re.match(rf"ready: \S+ at http://{HOST}:(\d+),", child.stdout.readline())
        assert found, "the server did not start"
        yield child.pid, int(found[1])
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()


def run(arguments: argparse.Namespace, checkpoint: str) -> dict:
    """The whole measurement."""
    flags = [
        f"--num_slots={arguments.slots}",
        f"--max_length={128 + arguments.tokens}",
        "--page_size=16",
        "--prefill_tokens=64",
    ]
    with server(checkpoint, flags) as (process, port):
        asyncio.run(work(port, 0, arguments.clients, 5, arguments.tokens))  # every shape of step and page has been met
        start_memory, began = megabytes_of(process), time.monotonic()
        share = -(-arguments.clients // WORKERS)
        firsts = range(0, arguments.clients, share)
        counts = [min(share, arguments.clients - first) for first in firsts]
        workers = [
            start_clients(arguments, port, first, count, arguments.seconds)
            for first, count in zip(firsts, counts, strict=True)
        ]
        killed = kill_victims(arguments, port, began + arguments.seconds)
        tallies = [Tally(**json.loads(each.communicate()[0])) for each in workers]
        seconds, end = time.monotonic() - began, time.monotonic() + QUIET_SECONDS
        while (numbers := metrics_of(port))["llama3_pages_held"] and time.monotonic() < end:
            time.sleep(0.1)
        first_tokens = sorted(value for tally in tallies for value in tally.first_token_seconds)
        return {
            "benchmark": "serve_load",
            "clients": arguments.clients,
            "seconds": round(seconds, 1),
            "requests_done": sum(tally.done for tally in tallies),
            "requests_refused": sum(tally.refused for tally in tallies),
            "requests_lost": sum(tally.lost for tally in tallies),
            "reasons": [reason for tally in tallies for reason in tally.reasons][:5],
            "processes_killed": killed,
            "streams_cancelled": numbers['llama3_requests_total{outcome="cancelled"}'],
            "tokens_per_second": round(sum(tally.tokens for tally in tallies) / seconds, 1),
            "first_token_seconds_median": round(first_tokens[len(first_tokens) // 2], 3) if first_tokens else None,
            "first_token_seconds_99": round(first_tokens[len(first_tokens) * 99 // 100], 3) if first_tokens else None,
            "engine_crashes": numbers["llama3_engine_crashes_total"],
            "pages_held_at_end": numbers["llama3_pages_held"],
            "requests_running_at_end": numbers["llama3_requests_running"] + numbers["llama3_requests_waiting"],
            "megabytes_at_start": start_memory,
            "megabytes_at_end": megabytes_of(process),
        }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("clients", 200), ("slots", 32), ("tokens", 64), ("port", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--checkpoint", help="a model to serve; a tiny random one without it")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    """Runs it and prints the line."""
    arguments = parse()
    if arguments.worker:
        worker(arguments)
        return
    if arguments.checkpoint:
        print(json.dumps(run(arguments, arguments.checkpoint)))
        return
    from tests.serve.servers import write_checkpoint
    from tests.train.runs import write_inputs

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_inputs(folder)
        write_checkpoint(folder / "tiny", folder / "tokenizer.model")
        print(json.dumps(run(arguments, str(folder / "tiny"))))


if __name__ == "__main__":
    main()

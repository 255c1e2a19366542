"""Clients that leave, dawdle or come in crowds; an engine that fails; the end of a server."""

import contextlib
import dataclasses
import json
import signal
import socket
import threading
import time

import httpx
import pytest

from tests.serve import servers
from tests.serve.conftest import wait_until_idle

COMPLETIONS = "/v1/completions"
LONG = {"prompt": [5, 6, 7], "max_tokens": 2000, "stream": True}
SHORT = {"prompt": [5, 6], "max_tokens": 3}


class Pace:
    """What happens before a step of the scripted engine: it takes a while, or fails."""

    def __init__(self):
        self.seconds, self.failures, self.going = 0.003, 0, threading.Event()
        self.going.set()

    def __call__(self):
        assert self.going.wait(30)
        time.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the device is on fire")


@pytest.fixture
def pace():
    return Pace()


@pytest.fixture
def serving(trained, pace):
    """`serving(sizes changes, **limits)`: a server of the scripted engine that says "a" for ever, at this pace."""
    with contextlib.ExitStack() as stack:

        def start(limits=None, **changes):
            sizes = dataclasses.replace(servers.SIZES, **changes)
            answer = lambda prompt: trained.tokenizer.encode("a")
            make = lambda: servers.scripted(trained.tokenizer, answer, sizes, pace)
            return stack.enter_context(servers.running(make, trained.tokenizer, **(limits or {})))

        yield start


def events(response):
    """The events of a stream as they come."""
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def outcome(server, name: str) -> float:
    return server.metric(f'llama3_requests_total{{outcome="{name}"}}')


def test_a_client_that_leaves_frees_its_pages(serving):
    server = serving()
    with server.client() as client:
        for stream in (True, False):
            left = outcome(server, "cancelled")
            body = LONG | {"n": 3, "stream": stream}
            with (
                contextlib.suppress(httpx.ReadTimeout),
                client.stream("POST", COMPLETIONS, json=body, timeout=0.3) as response,
            ):
                for number, _ in enumerate(events(response)):
                    if number == 10:
                        break
            wait_until_idle(server, 2)  # the answers would have taken six seconds
            assert outcome(server, "cancelled") == left + 3
        assert client.post(COMPLETIONS, json=SHORT).json()["choices"][0]["text"] == "aaa"


def test_a_client_that_leaves_while_it_waits_is_forgotten(serving, pace):
    server = serving(num_slots=1)
    with server.client() as client, client.stream("POST", COMPLETIONS, json=LONG) as first:
        stream = events(first)
        next(stream)
        with pytest.raises(httpx.ReadTimeout):
            client.post(COMPLETIONS, json=SHORT, timeout=0.2)
        servers.eventually(lambda: server.metric("llama3_requests_waiting") == 0, 2)
        assert server.metric("llama3_requests_running") == 1 and next(stream)["choices"]
    wait_until_idle(server, 2)


@contextlib.contextmanager
def taking_nothing(server, body):
    """A client that asks and never reads the answer."""
    content = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(content)}\r\n\r\n"
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        lazy.sendall(head.encode() + content)
        yield


MUCH = LONG | {"n": 8, "logprobs": 20, "max_tokens": 500}  # a megabyte of answers, several times what buffers hold
NARROW = {"send_buffer": 8192}


def test_a_client_that_takes_nothing_delays_nobody_and_holds_no_pages(serving, pace):
    pace.seconds = 0
    server = serving(limits=NARROW, num_slots=9)
    with server.client() as client:
        with taking_nothing(server, MUCH):
            servers.eventually(lambda: server.context.open_calls == 1)
            assert client.post(COMPLETIONS, json=SHORT).json()["choices"][0]["text"] == "aaa"
            servers.eventually(lambda: outcome(server, "length") == 9, 60)
            wait_until_idle(server)
            assert server.context.open_calls == 1  # the answers are there, and nobody takes them
        servers.eventually(lambda: server.context.open_calls == 0)


def test_a_client_that_takes_nothing_is_left_after_a_while(serving):
    server = serving(limits=NARROW | {"send_seconds": 0.2}, num_slots=9)
    with taking_nothing(server, MUCH | {"max_tokens": 1900}):
        servers.eventually(lambda: outcome(server, "cancelled") == 8, 60)
        servers.eventually(lambda: server.context.open_calls == 0)
        wait_until_idle(server)


def test_too_many_requests_are_told_to_come_back(serving, pace):
    server = serving(num_slots=1, max_waiting=3)
    with server.client() as client:
        pace.going.clear()
        threads = [threading.Thread(target=client.post, args=(COMPLETIONS,), kwargs={"json": SHORT}) for _ in range(3)]
        for thread in threads:
            thread.start()
        waiting = lambda: server.context.open_calls + server.context.service._inbox.qsize() >= 3
        servers.eventually(waiting)
        pace.seconds = 0.2
        pace.going.set()
        servers.eventually(lambda: server.metric("llama3_requests_waiting") >= 1)
        full = client.post(COMPLETIONS, json=SHORT | {"n": 3})
        assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["type"] == "rate_limit_error" and "try again" in full.json()["error"]["message"]
        pace.seconds = 0
        for thread in threads:
            thread.join()
        wait_until_idle(server)
        assert outcome(server, "length") == 3 and outcome(server, "cancelled") == 0


def test_a_request_that_takes_too_long_is_given_up(serving):
    server = serving(limits={"request_seconds": 0.3})
    with server.client() as client:
        late = client.post(COMPLETIONS, json=LONG | {"stream": False})
        assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
        with client.stream("POST", COMPLETIONS, json=LONG) as response:
            assert list(events(response))[-1]["error"]["code"] == "timeout"
    wait_until_idle(server)


def test_a_step_that_fails_ends_what_ran_and_the_rest_goes_on(serving, pace):
    server = serving(num_slots=2)
    results = {}

    def ask(name, client):
        results[name] = client.post(COMPLETIONS, json=SHORT | {"max_tokens": 30})

    with server.client() as client:
        with client.stream("POST", COMPLETIONS, json=LONG | {"n": 2}) as response:
            stream = events(response)
            next(stream)
            waiting = threading.Thread(target=ask, args=("waiting", client))
            waiting.start()
            servers.eventually(lambda: server.metric("llama3_requests_waiting") == 1)
            pace.failures = 1
            last = list(stream)[-1]
            assert last["error"]["type"] == "server_error" and "RuntimeError" in last["error"]["message"]
        waiting.join()
        assert results["waiting"].json()["choices"][0]["text"] == "a" * 30
        assert client.get("/health").status_code == 200 and server.metric("llama3_engine_crashes_total") == 1
        failed = threading.Thread(target=ask, args=("failed", client))
        pace.failures = 1
        failed.start()
        failed.join()
        assert results["failed"].status_code == 500
    wait_until_idle(server)


def test_a_service_that_keeps_failing_says_so(serving, pace):
    server = serving()
    pace.failures = 3
    with server.client() as client:
        assert [client.post(COMPLETIONS, json=SHORT).status_code for _ in range(4)] == [500, 500, 500, 503]
        health = client.get("/health")
        assert health.status_code == 503 and "3 times" in health.json()["status"]
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(("limit", "answers"), [(60, 1), (1, 24)])
def test_sigterm_lets_what_runs_finish_within_a_limit(checkpoint, limit, answers):
    """In a process of its own. While it drains, connections that are open get 503 and so do new ones.

    24 answers take four slots several seconds on any machine.
    """
    sizes = ("--num_slots=4", "--max_length=2048", f"--drain_seconds={limit}")
    with servers.process(checkpoint, *sizes) as (child, url), httpx.Client(base_url=url, timeout=60) as client:
        body = {"prompt": "import", "max_tokens": 1900, "stream": True, "ignore_eos": True, "seed": 1, "n": answers}
        with client.stream("POST", COMPLETIONS, json=body) as response:
            stream = events(response)
            next(stream)
            child.send_signal(signal.SIGTERM)
            servers.eventually(lambda: client.get("/health").status_code == 503)
            refused = client.post(COMPLETIONS, json=SHORT)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
            assert "retry-after" in refused.headers
            last = list(stream)[-1]
        assert child.wait(30) == 0
        if limit == 60:
            assert last["choices"][0]["finish_reason"] == "length"
        else:
            assert last["error"]["message"] == "the server is shutting down"


def test_a_second_signal_ends_at_once(checkpoint):
    """It does not wait for answers, which take four slots several seconds on any machine."""
    with (
        servers.process(checkpoint, "--num_slots=4", "--max_length=2048") as (child, url),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        body = {"prompt": "import", "max_tokens": 1900, "stream": True, "ignore_eos": True, "n": 24}
        with client.stream("POST", COMPLETIONS, json=body) as response:
            stream = events(response)
            next(stream)
            child.send_signal(signal.SIGINT)
            servers.eventually(lambda: client.get("/health").status_code == 503)
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 0
            with pytest.raises(httpx.TransportError):  # cut off in the middle
                list(stream)

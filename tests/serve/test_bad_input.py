"""Bad requests: the right status, OpenAI's error shape, the field's name, and a server that goes on."""

import json
import socket

import pytest

from tests.serve import servers
from tests.serve.conftest import wait_until_idle

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]
DEEP = "[" * 100_000 + "]" * 100_000

BAD_FIELDS = [
    (COMPLETIONS, {}, "prompt"),
    (COMPLETIONS, {"prompt": None}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt"),
    (COMPLETIONS, {"prompt": 5}, "prompt"),
    (COMPLETIONS, {"prompt": {"text": "a"}}, "prompt"),
    (COMPLETIONS, {"prompt": ["a", 5]}, "prompt"),
    (COMPLETIONS, {"prompt": [1, True]}, "prompt"),
    (COMPLETIONS, {"prompt": [1, 2.5]}, "prompt"),
    (COMPLETIONS, {"prompt": [1, 512]}, "prompt"),
    (COMPLETIONS, {"prompt": [1, -1]}, "prompt"),
    (COMPLETIONS, {"prompt": [10**30]}, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 33}, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 2, "n": 17}, "prompt"),
    (COMPLETIONS, {"prompt": "word " * 5000}, "prompt"),
    (COMPLETIONS, {"prompt": [5] * 2040, "max_tokens": 9}, "prompt"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 10**12}, "max_tokens"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": -1}, "max_tokens"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": True}, "max_tokens"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": "5"}, "max_tokens"),
    (COMPLETIONS, {"prompt": "a", "temperature": -0.1}, "temperature"),
    (COMPLETIONS, {"prompt": "a", "temperature": "hot"}, "temperature"),
    (COMPLETIONS, {"prompt": "a", "temperature": 1e999}, "temperature"),
    (COMPLETIONS, {"prompt": "a", "temperature": 10**400}, "temperature"),
    (COMPLETIONS, {"prompt": "a", "top_p": 0}, "top_p"),
    (COMPLETIONS, {"prompt": "a", "top_p": 1.01}, "top_p"),
    (COMPLETIONS, {"prompt": "a", "top_k": -2}, "top_k"),
    (COMPLETIONS, {"prompt": "a", "min_p": 2}, "min_p"),
    (COMPLETIONS, {"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
    (COMPLETIONS, {"prompt": "a", "presence_penalty": 1000}, "presence_penalty"),
    (COMPLETIONS, {"prompt": "a", "frequency_penalty": []}, "frequency_penalty"),
    (COMPLETIONS, {"prompt": "a", "seed": 2**70}, "seed"),
    (COMPLETIONS, {"prompt": "a", "seed": "x"}, "seed"),
    (COMPLETIONS, {"prompt": "a", "stop": ""}, "stop"),
    (COMPLETIONS, {"prompt": "a", "stop": ["b", ""]}, "stop"),
    (COMPLETIONS, {"prompt": "a", "stop": [1]}, "stop"),
    (COMPLETIONS, {"prompt": "a", "stop": ["x"] * 17}, "stop"),
    (COMPLETIONS, {"prompt": "a", "stop_token_ids": ["x"]}, "stop_token_ids"),
    (COMPLETIONS, {"prompt": "a", "n": 0}, "n"),
    (COMPLETIONS, {"prompt": "a", "n": 10**6}, "n"),
    (COMPLETIONS, {"prompt": "a", "best_of": 3}, "best_of"),
    (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias"),
    (COMPLETIONS, {"prompt": "a", "logprobs": 21}, "logprobs"),
    (COMPLETIONS, {"prompt": "a", "logprobs": True}, "logprobs"),
    (COMPLETIONS, {"prompt": "a", "echo": "yes"}, "echo"),
    (COMPLETIONS, {"prompt": "a", "stream": 1}, "stream"),
    (COMPLETIONS, {"prompt": "a", "stream_options": 5}, "stream_options"),
    (COMPLETIONS, {"prompt": "a", "stream_options": {"include_usage": 5}}, "stream_options.include_usage"),
    (COMPLETIONS, {"prompt": "a", "user": 5}, "user"),
    (COMPLETIONS, {"prompt": "a", "model": 5}, "model"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": ["hi"]}, "messages"),
    (CHAT, {"messages": [{"content": "hi"}]}, "messages"),
    (CHAT, {"messages": [{"role": "boss", "content": "hi"}]}, "messages"),
    (CHAT, {"messages": [{"role": ["user"], "content": "hi"}]}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    (CHAT, {"messages": [*USER, {"role": "system", "content": "late"}]}, "messages"),
    (CHAT, {"messages": [{"role": "tool", "content": "no call"}]}, "messages"),
    (
        CHAT,
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "messages",
    ),
    (CHAT, {"messages": [{"role": "user", "content": "word " * 5000}]}, "messages"),
    (CHAT, {"messages": USER, "max_tokens": 0}, "max_tokens"),
    (CHAT, {"messages": USER, "max_completion_tokens": 2048}, "messages"),
    (CHAT, {"messages": USER, "max_completion_tokens": "9"}, "max_completion_tokens"),
    (CHAT, {"messages": USER, "logprobs": 3}, "logprobs"),
    (CHAT, {"messages": USER, "top_logprobs": 3}, "top_logprobs"),
    (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"messages": USER, "tool_choice": "required"}, "tool_choice"),
    (CHAT, {"messages": USER, "tool_choice": {"type": "function"}}, "tool_choice"),
    (CHAT, {"messages": USER, "tools": {}}, "tools"),
    (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"messages": USER, "tools": [{"type": "function", "function": {"name": ""}}]}, "tools"),
    (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, "response_format"),
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": 5}, "prompt"),
    ("/tokenize", {"messages": [{"role": "boss"}]}, "messages"),
    ("/detokenize", {}, "tokens"),
    ("/detokenize", {"tokens": "a"}, "tokens"),
    ("/detokenize", {"tokens": [512]}, "tokens"),
    ("/detokenize", {"tokens": [10**30]}, "tokens"),
]
BAD_BODIES = [
    (b"", 400),
    (b"{", 400),
    (b'{"prompt": "a",}', 400),
    (b"\xff\xfe", 400),
    (b'"prompt"', 400),
    (b"[]", 400),
    (b"null", 400),
    (b'{"prompt": "a", "temperature": NaN}', 400),
    (DEEP.encode(), 400),
    (b'{"prompt": ' + DEEP.encode() + b"}", 400),
    (json.dumps({"prompt": "a" * 10 * 2**20}).encode(), 413),
    (b" " * (70 * 2**20), 413),
]


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client
        # Whatever was asked, the next one is served.
        good = client.post(COMPLETIONS, json={"prompt": "import", "max_tokens": 2, "temperature": 0})
        assert good.status_code == 200 and good.json()["usage"]["completion_tokens"] in (1, 2)


def error_of(response, status) -> dict:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] and len(body["error"]["message"]) < 500
    return body["error"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_field_is_named(client, stream):
    for path, body, param in BAD_FIELDS:
        body = body if "stream" in str(param) or not path.startswith("/v1") else {**body, "stream": stream}
        content = json.dumps(body).replace("Infinity", "1e999")
        response = client.post(path, content=content, headers={"content-type": "application/json"})
        error = error_of(response, 400)
        assert error["param"] == param and error["type"] == "invalid_request_error", (body, error)


@pytest.mark.parametrize(("data", "status"), BAD_BODIES, ids=[str(data[:20]) for data, _ in BAD_BODIES])
def test_a_body_that_is_no_json_object_or_too_large(client, data, status):
    error_of(client.post(COMPLETIONS, content=data, headers={"content-type": "application/json"}), status)


def test_a_body_too_large_that_comes_in_pieces_of_unknown_number(client):
    pieces = (b"x" * 2**20 for _ in range(10))
    error_of(client.post(COMPLETIONS, content=pieces, headers={"content-type": "application/json"}), 413)


def test_other_mistakes(client):
    body = {"prompt": "a", "max_tokens": 1}
    error = error_of(client.post(COMPLETIONS, json=body | {"model": "gpt-9"}), 404)
    assert error["param"] == "model" and error["code"] == "model_not_found" and "'tiny'" in error["message"]
    error_of(client.post(COMPLETIONS, content=json.dumps(body), headers={"content-type": "text/plain"}), 415)
    error_of(client.get("/v1/nothing"), 404)
    error_of(client.get(COMPLETIONS), 405)
    error = error_of(client.post(COMPLETIONS, json={"prompt": [5] * 3000, "max_tokens": 1}), 400)
    assert error["code"] == "context_length_exceeded" and "3000 tokens" in error["message"]


def test_unknown_fields_and_nulls_are_tolerated(client):
    odd = {"metadata": {"a": 1}, "store": True, "reasoning_effort": "high", "service_tier": "auto", "functions": None}
    nulls = {
        "temperature": None,
        "stop": None,
        "n": None,
        "best_of": None,
        "suffix": None,
        "logit_bias": {},
        "seed": None,
    }
    for path, body in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": [USER[0] | {"refusal": None, "x": 1}]})):
        response = client.post(path, json=body | odd | nulls | {"max_tokens": 1, "response_format": {"type": "text"}})
        assert response.status_code == 200, response.text


def test_strange_text_is_answered(client):
    for text in ("\ud800 lone", "\x00", "\u202e<|eot_id|>", ""):
        content = json.dumps({"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1})
        response = client.post(COMPLETIONS, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text


def test_what_is_no_http_at_all(client, server):
    host, port = server.url.removeprefix("http://").split(":")
    for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9\r\n\r\n", b"A" * 100_000):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(100)[:12] in (b"HTTP/1.1 400", b"")


def test_a_key(trained):
    with servers.running(
        lambda: servers.scripted(trained.tokenizer, lambda _: [70]), trained.tokenizer, api_key="s3cret é"
    ) as server:
        with server.client() as client:
            body, guarded = {"prompt": "a", "max_tokens": 1}, ("/v1/models", "/tokenizer_info")
            for header in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "Basic s3cret"},
                {"authorization": "Bearer"},
            ):
                error = error_of(client.post(COMPLETIONS, json=body, headers=header), 401)
                assert error["code"] == "invalid_api_key"
                for path in guarded:
                    error_of(client.get(path, headers=header), 401)
            key = {"authorization": "Bearer s3cret é".encode()}
            assert client.post(COMPLETIONS, json=body, headers=key).status_code == 200
            assert all(client.get(path, headers=key).status_code == 200 for path in guarded)
            assert all(client.get(path).status_code == 200 for path in ("/", "/health", "/metrics"))
        wait_until_idle(server)

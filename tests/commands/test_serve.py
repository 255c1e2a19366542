"""`llama3 serve` as a person meets it: what it refuses, before it answers anybody. The rest is in tests/serve."""

import socket

import pytest

from llama3_jax import cli
from tests.serve import servers


@pytest.fixture(scope="module")
def checkpoint(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "tiny"
    servers.write_checkpoint(folder, inputs / "tokenizer.model")
    return folder


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint=nowhere"], "nowhere has no complete checkpoint"),
        (["--tensor=9"], "--tensor=9, but there are 8 devices"),
        (["--max_length=5000"], "max_length 5000 exceeds the model's 2048"),
        (["--host=203.0.113.1"], "cannot listen on 203.0.113.1:0: "),
        (["--port=70000"], "flag --port=70000"),
        (["--dialect=latin"], "flag --dialect=latin"),
        (["--api_key_file=nowhere"], "nowhere"),
        (["--api_key_file=/dev/null"], "/dev/null is empty; it should hold the key"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_sentence(capfd, monkeypatch, tmp_path, checkpoint, flags, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", f"--checkpoint={checkpoint}", "--port=0", *flags]) == 1
    printed = capfd.readouterr()
    assert printed.out == "" and message in printed.err and printed.err.startswith("llama3 serve: ")
    assert len(printed.err.splitlines()) == 1


def test_a_port_that_is_taken_is_known_before_anything_is_loaded(capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--checkpoint=nowhere", f"--port={port}"]) == 1
        assert f"cannot listen on 127.0.0.1:{port}: " in capfd.readouterr().err

"""docs/serving.md: every command in it is run, against a server that its first command starts."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.serve import servers

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


def commands() -> list[str]:
    """Commands of the shell, continued lines joined."""
    text = "".join(body for language, body in BLOCKS if language == "sh").replace("\\\n", "")
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def url(checkpoint):
    """A server started by the documented command, with our checkpoint and a free port."""
    first = commands()[0].split()
    assert first[:2] == ["llama3", "serve"]
    flags = [flag for flag in first[2:] if not flag.startswith(("--checkpoint=", "--port="))]
    assert len(flags) == len(first) - 4
    with servers.process(checkpoint, *flags, "--chat_tokens=16") as (_, url):
        yield url


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_commands_for_curl(url):
    curls = [command for command in commands() if command.startswith("curl")]
    answers = [
        subprocess.run(["bash", "-c", command.replace(ADDRESS, url)], capture_output=True, text=True, timeout=120)
        for command in curls
    ]
    assert len(curls) == 6 and all(answer.returncode == 0 for answer in answers)
    models, completion, chat, tokens, health, metrics = [answer.stdout for answer in answers]
    assert json.loads(models)["data"][0]["id"] == "tiny"
    assert json.loads(completion)["usage"]["completion_tokens"] > 0
    assert chat.startswith("data: {") and chat.endswith("data: [DONE]\n\n") and '"error"' not in chat
    assert json.loads(tokens)["count"] == len(json.loads(tokens)["tokens"]) > 3
    assert json.loads(health) == {"status": "ok"} and "llama3_pages_free" in metrics


def test_the_program_for_python(url):
    [program] = [body for language, body in BLOCKS if language == "python"]
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ADDRESS, url)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_no_command_is_left_out():
    """The one for lm-eval is run with tasks of its own in test_lm_eval.py."""
    others = [command for command in commands()[1:] if not command.startswith("curl")]
    assert [command.split()[0] for command in others] == ["lm_eval"]
    for argument in ("local-completions", "base_url=", "num_concurrent=", "max_length="):
        assert argument in others[0]
        assert argument in pathlib.Path(__file__).with_name("test_lm_eval.py").read_text()


def test_every_flag_in_the_text_exists():
    done = subprocess.run(
        [sys.executable, "-m", "llama3_jax.cli", "serve", "--help"], capture_output=True, text=True, timeout=120
    )
    flags = set(re.findall(r"`--(\w+)", TEXT)) - {"model_args"}
    assert flags and all(f"--{flag}" in done.stdout or f"--[no]{flag}" in done.stdout for flag in flags)

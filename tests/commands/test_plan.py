"""`llama3 plan` as a person meets it."""

import json
import re

import pytest

from llama3_jax import cli
from tests.train.runs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections, on a config file
GUIDE = CONFIGS.parent / "docs" / "plan.md"
SMALL = [f"--config={CONFIGS / 'llama3_8b.py'}", "--devices=16", "--hardware=h100"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (SMALL[:2], "--hardware must have a value"),
        (SMALL[1:], "--config is required"),
        ([*SMALL[:2], "--hardware=h300"], "value should be one of"),
        ([*SMALL[:1], "--devices=12", "--hardware=h100"], "GPUs come in hosts of 8; try h100x16"),
        ([*SMALL[:1], "--devices=100", "--hardware=v5p"], "nearest slices are"),
        ([*SMALL[:1], "--devices=7", "--hardware=ironwood"], "2 devices a chip, 7 are no whole chips"),
        ([*SMALL, "--stage=middle"], "no stage 'middle'; there are initial, anneal"),
        ([*SMALL, "--memory_gib=-1"], "--memory_gib must be positive"),
        ([*SMALL, "--memory_gib=8"], "no layout of 16 h100 holds this step in 7.6 GiB: the nearest, "),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_sentence(capfd, arguments, message):
    assert cli.main(["plan", *arguments]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("llama3 plan: ") and message in lines[0], lines


def test_layouts_are_ranked_and_the_pipeline_drawn(capfd, tmp_path):
    picture = tmp_path / "pipeline.png"
    assert cli.main(["plan", *SMALL, "--top=4", f"--timeline={picture}"]) == 0
    out = capfd.readouterr().out
    assert "stage initial (segment 2): batches of 16,777,216 tokens" in out and "h100x16" in out
    assert out.count("% slower: ") == 3 and "the fastest that fits" in out
    assert "--config.micro_batch_tokens=" in out and "--config.mesh.stage=" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_is_one_line_of_numbers(capfd):
    flags = [f"--config={CONFIGS / 'llama3_8b.py'}", "--devices=128", "--hardware=ironwood", "--top=2", "--json"]
    assert cli.main(["plan", *flags]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["topology"] == "tpu7x-128" and found["verified"] == []
    first, second = found["layouts"][:2]
    assert first["fits"] and first["seconds"] <= second["seconds"]
    assert first["seconds"] == pytest.approx(sum(first["seconds_by_part"].values()))
    assert first["bytes"] == pytest.approx(sum(first["bytes_by_part"].values()))


@pytest.mark.slow
@pytest.mark.parametrize("command", re.findall(r"^llama3 plan (.+)$", GUIDE.read_text(), re.MULTILINE))
def test_commands_of_the_guide_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [flag.replace("configs/", f"{CONFIGS}/") for flag in command.split() if not flag.startswith("--verify")]
    assert cli.main(["plan", *flags]) == 0

"""A short run of benchmarks/serve_load.py: nobody is lost, pages come back, memory stays."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_many_clients_some_of_them_killed():
    command = [sys.executable, "-m", "benchmarks.serve_load", "--seconds", "20", "--clients", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["requests_lost"] == 0, result
    assert result["requests_done"] >= 200 and result["processes_killed"] >= 3
    assert result["pages_held_at_end"] == result["requests_running_at_end"] == result["engine_crashes"] == 0
    assert result["megabytes_at_end"] < 1.2 * result["megabytes_at_start"]

"""A thousand malformed messages against a running server; ``python -m tests.bench.fuzz`` sends a hundred thousand."""

import json
import subprocess
import sys

import pytest

PATIENCE_S = 150


@pytest.mark.slow
def test_a_thousand_malformed_messages_do_a_running_server_no_harm():
    command = [sys.executable, "-m", "tests.bench.fuzz", "--messages", "1000", "--seed", "7"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stderr)
    assert found["faults"] == []
    assert sum(found["statuses"].values()) == found["messages"] == 1000
    assert found["statuses"]["INVALID_ARGUMENT"] > 500

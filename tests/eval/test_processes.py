import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.processes import run, service

PATIENCE_S = 60.0

PARENT = """
import sys
from pathlib import Path
from eval.processes import service

with service(["tap", "--upstream", "127.0.0.1:1", "--capture", sys.argv[1], "--listen", "127.0.0.1:0"],
             Path(sys.argv[2])) as tap:
    tap.wait_for("listening", 60)
    print(tap.process.pid, flush=True)
    sys.stdin.read()
"""


def tap_of(folder, upstream="127.0.0.1:1"):
    capture = str(folder / "tap.capture")
    return service(["tap", "--upstream", upstream, "--capture", capture, "--listen", "127.0.0.1:0"], folder / "tap.log")


def gone(pid):
    """Whether no such process is left; one that is dead and not yet waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_service_tells_its_events_and_stops_with_the_block(tmp_path):
    with tap_of(tmp_path) as tap:
        address = tap.wait_for("listening", PATIENCE_S)["address"]
        assert int(address.rpartition(":")[2]) > 0
        assert tap.process.poll() is None
    assert tap.process.returncode in (0, 128 + signal.SIGTERM)
    assert gone(tap.process.pid)


def test_a_service_that_fails_reports_the_end_of_its_log(tmp_path):
    running = service(["cloud", str(tmp_path / "nothing")], tmp_path / "logs" / "cloud.log")
    ended = pytest.raises(RuntimeError, match=r"cloud to report 'listening', but it ended:\n.*expected a half")
    with running as cloud, ended:
        cloud.wait_for("listening", PATIENCE_S)
    assert cloud.process.returncode == 1


def test_an_event_that_does_not_come_is_waited_for_no_longer_than_asked(tmp_path):
    with tap_of(tmp_path) as tap:
        tap.wait_for("listening", PATIENCE_S)
        with pytest.raises(TimeoutError, match="expected tap to report 'streamed' within 0 s"):
            tap.wait_for("streamed", 0.05)


def test_a_service_stops_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), tap_of(tmp_path) as tap:
        raise KeyError
    assert gone(tap.process.pid)


def test_children_are_gone_when_their_parent_is_killed(tmp_path):
    arguments = [sys.executable, "-c", PARENT, str(tmp_path / "tap.capture"), str(tmp_path / "tap.log")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert not gone(child)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(PATIENCE_S)
    watch = time.monotonic()
    while not gone(child) and time.monotonic() < watch + PATIENCE_S:
        os.sched_yield()
    assert gone(child)


def test_a_command_gives_its_result(tmp_path):
    found = run(["split", "--out", str(tmp_path), "--train=5", "--public=4", "--victims=3", "--test=2"])
    assert found["images"] == {"train": 5, "public": 4, "victims": 3, "test": 2}


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="`splitleak inspect` to succeed, but it ended with 1"):
        run(["inspect", str(tmp_path / "nothing")])

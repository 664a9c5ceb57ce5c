import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from splitleak.eval.campaign.processes import Children, service
from splitleak.warm_start import COLD_START

PATIENCE_S = 60.0

PARENT = """
import sys
from pathlib import Path
from splitleak.eval.campaign.processes import service

with service(["tap", "--upstream", "127.0.0.1:1", "--capture", sys.argv[1], "--listen", "127.0.0.1:0"],
             Path(sys.argv[2])) as tap:
    tap.wait_for("listening", 60)
    print(tap.process.pid, flush=True)
    sys.stdin.read()
"""


def tap_options(folder):
    return ["tap", "--upstream", "127.0.0.1:1", "--capture", str(folder / "tap.capture"), "--listen", "127.0.0.1:0"]


def tap_of(folder, children=None):
    return service(tap_options(folder), folder / "tap.log", children)


def gone(pid):
    """Whether no such process is left; one that is dead and not yet waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.slow
def test_a_service_tells_its_events_and_stops_with_the_block(tmp_path):
    with tap_of(tmp_path) as tap:
        address = tap.wait_for("listening", PATIENCE_S)["address"]
        assert int(address.rpartition(":")[2]) > 0
        assert tap.process.poll() is None
    assert tap.process.returncode in (0, 128 + signal.SIGTERM)
    assert gone(tap.process.pid)


@pytest.mark.slow
def test_a_service_that_fails_reports_the_end_of_its_log(tmp_path):
    (tmp_path / "tap.capture").write_text("somebody's thesis")
    running = service(tap_options(tmp_path), tmp_path / "logs" / "tap.log")
    ended = pytest.raises(RuntimeError, match=r"tap to report 'listening', but it ended:\n.*expected a capture")
    with running as tap, ended:
        tap.wait_for("listening", PATIENCE_S)
    assert tap.process.returncode == 1


def test_a_service_that_fails_quotes_this_runs_lines_alone(tmp_path):
    log = tmp_path / "service.log"
    log.write_text("an earlier run's complaint\n")
    (tmp_path / "tap.capture").write_text("somebody's thesis")
    with service(tap_options(tmp_path), log) as started:
        with pytest.raises(RuntimeError, match="somebody") as caught:
            started.wait_for("listening", PATIENCE_S)
        assert "earlier" not in str(caught.value)
    assert log.read_text().startswith("an earlier run's complaint\n")


def test_of_a_service_that_is_killed_and_says_nothing_the_exit_status_is_told(tmp_path):
    with tap_of(tmp_path) as tap:
        tap.wait_for("listening", PATIENCE_S)
        tap.process.kill()
        with pytest.raises(RuntimeError, match="ended with exit status -9, and wrote nothing"):
            tap.wait_for("finished", PATIENCE_S)


def test_an_event_that_does_not_come_is_waited_for_no_longer_than_asked(tmp_path):
    with tap_of(tmp_path) as tap:
        tap.wait_for("listening", PATIENCE_S)
        with pytest.raises(TimeoutError, match="expected tap to report 'streamed' within 0 s"):
            tap.wait_for("streamed", 0.05)


def test_a_service_stops_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), tap_of(tmp_path) as tap:
        raise KeyError
    assert gone(tap.process.pid)


@pytest.mark.slow
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


def test_a_command_gives_its_result_and_writes_its_log(tmp_path):
    assert Children().run(["list"], tmp_path / "log")["codecs"][0] == "fp32"
    assert (tmp_path / "log").read_bytes() == b""


@pytest.mark.slow
def test_a_child_that_fails_is_named_by_its_command_and_its_traceback_is_in_the_log(tmp_path):
    children = Children({"SPLITLEAK_DEBUG": "1"})
    with pytest.raises(subprocess.CalledProcessError, match=r"splitleak capture join .*nothing") as failed:
        children.run(["capture", "join", str(tmp_path / "nothing"), "--out", str(tmp_path / "one")], tmp_path / "log")
    assert failed.value.returncode == 1
    assert "Traceback (most recent call last)" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_all_children_are_ended_at_once_and_none_starts_after_that(tmp_path):
    children = Children()
    with ThreadPoolExecutor(1) as pool, tap_of(tmp_path, children) as tap:
        running = pool.submit(children.run, tap_options(tmp_path / "other"), tmp_path / "log")
        tap.wait_for("listening", PATIENCE_S)
        children.stop()
        assert tap.process.poll() is not None
        with pytest.raises(InterruptedError):
            running.result(PATIENCE_S)
    with pytest.raises(InterruptedError, match="expected to start split"):
        children.run(["split"], tmp_path / "log")


@pytest.mark.slow
def test_children_hold_what_they_inherit_and_are_out_of_a_terminals_reach(tmp_path):
    with (tmp_path / "held").open("w") as held, tap_of(tmp_path, Children(inherited=[held.fileno()])) as tap:
        tap.wait_for("listening", PATIENCE_S)
        opened = {path.resolve() for path in Path(f"/proc/{tap.process.pid}/fd").iterdir()}
        assert (tmp_path / "held").resolve() in opened
        assert os.getpgid(tap.process.pid) != os.getpgid(0)


@pytest.mark.slow
def test_a_warm_child_trains_the_target_that_a_cold_one_trains(small_splits, tmp_path):
    small_splits.save(tmp_path / "images")
    config = {"model": {"architecture": "cnn", "width": 0.25}, "training": {"epochs": 1}, "seed": 5}
    (tmp_path / "target.json").write_text(json.dumps(config))
    given = ["train", "--images", str(tmp_path / "images"), "--threads", "1", "--config", str(tmp_path / "target.json")]
    for name, environment in (("warm", {}), ("cold", {COLD_START: "1"})):
        Children(environment).run([*given, "--out", str(tmp_path / name / "toy")], tmp_path / f"{name}.log")
    for half in ("edge", "cloud"):
        warm, cold = (files_of(tmp_path / name / "toy" / half) for name in ("warm", "cold"))
        assert len(warm) == 2
        assert warm == cold


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """The current folder, which holds modules of somebody else under names that ours and Python's own have."""
    for name in ("eval/__init__.py", "edge/__init__.py", "cloud.py", "queue.py"):
        path = tmp_path / "theirs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('imported from the current folder')")
    monkeypatch.chdir(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_ours_is_imported_where_a_folder_holds_modules_of_the_same_names(strangers):
    told = subprocess.run([sys.executable, "-c", "import splitleak; print(splitleak.__file__)"], capture_output=True)
    assert told.returncode == 0, told.stderr
    assert not Path(told.stdout.decode()).is_relative_to(strangers)


@pytest.mark.slow
def test_a_command_that_starts_children_works_where_a_folder_holds_modules_of_the_same_names(
    strangers, artifact, tmp_path
):
    command = [sys.executable, "-P", "-m", "splitleak", "latency", str(artifact), "--samples", "10", "--json"]
    told = subprocess.run([*command, "--no-alternatives"], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert Children().run(["list"], tmp_path / "log")["codecs"][0] == "fp32"

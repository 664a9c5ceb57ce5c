import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from splitleak import warm_start
from splitleak.warm_start import COLD_START, Starter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children start cold elsewhere")
PATIENCE_S = 60.0
PROBE = '''
"""Tells all that a process may find out about itself, or does as it is told."""

import json, os, signal, subprocess, sys, threading, time

if sys.argv[1:2] == ["sleep"]:
    print("asleep", flush=True)
    time.sleep(600)
if sys.argv[1:2] == ["echo"]:
    print(sys.stdin.readline().strip(), flush=True)
    print("said to stderr", file=sys.stderr)
    sys.exit(int(sys.argv[2]))
if sys.argv[1:2] == ["raise"]:
    raise KeyError("probe")
if sys.argv[1:2] == ["exit"]:
    import atexit
    atexit.register(print, "left")
    threading.Thread(target=lambda: (time.sleep(0.2), print("waited for"))).start()
    sys.exit({"none": None, "said": "why", "large": 259}[sys.argv[2]])
os.environ["PATH"] += ":probe"
import numpy, random, torch
drawn = [random.random(), numpy.random.rand(), torch.rand(()).item()]
told = {
    "argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ),
    "c": subprocess.check_output("echo $GIVEN $PATH", shell=True, text=True),
    "main": [__name__, vars(sys.modules["__main__"]).get("__file__"), __spec__.name],
    "path": sys.path, "flags": list(sys.flags), "warnings": len(sys.warnoptions), "umask": os.umask(0),
    "signals": [str(signal.getsignal(each)) for each in signal.valid_signals()],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "open": sorted(map(int, os.listdir("/proc/self/fd")))[:3], "threads": threading.active_count(),
    "streams": [[s.fileno(), s.isatty(), s.encoding, s.errors, s.line_buffering, s.write_through]
                for s in (sys.stdin, sys.stdout, sys.stderr)],
    "torch": [torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype() == torch.float32],
    "product": (torch.full((400, 400), 0.1) @ torch.full((400, 400), 0.7)).sum().item(),
    "numpy": (numpy.full((300, 300), 0.1) @ numpy.full((300, 300), 0.7)).sum(),
    "cuda": torch.cuda.is_initialized(), "group": os.getpgid(0) == os.getpid(),
}
told["drawn"] = [torch.manual_seed(3).initial_seed(), torch.rand(4).tolist()]
print(json.dumps([told, drawn, len(os.listdir("/proc/self/fd"))]))
'''


@pytest.fixture
def starter(tmp_path, monkeypatch):
    """``starter(**environment)``: starts the probe, from a fork server that has imported torch."""
    (tmp_path / "probe.py").write_text(PROBE)

    def make(**environment):
        path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
        given = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", **environment}
        return Starter("probe", ("torch", "numpy", "no.such.module"), given)

    return make


def told(process):
    with process.stdout as output:
        said = output.read()
    assert process.wait(PATIENCE_S) == 0
    process.stdin.close()
    return json.loads(said)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(holds):
    watch = time.monotonic()
    while not holds() and time.monotonic() < watch + PATIENCE_S:
        time.sleep(0.01)
    return holds()


@pytest.mark.slow
def test_a_warm_child_finds_what_a_cold_one_does(starter, tmp_path, monkeypatch):
    warm = starter(GIVEN="once", SPLITLEAK_GIVEN="late")
    monkeypatch.chdir(tmp_path)  # the fork server has been started elsewhere
    first, second = (told(warm.start(["an", "argument"])) for _ in range(2))
    cold = told(starter(GIVEN="once", SPLITLEAK_GIVEN="late", **{COLD_START: "1"}).start(["an", "argument"]))
    assert cold[0]["environment"].pop(COLD_START)
    assert first[0] == second[0] == cold[0]
    assert first[0]["torch"][0] == 2
    assert first[2] == second[2] <= cold[2] + 1  # open files: what a fork server has open, a child has not
    assert all(len(set(drawn)) == 3 for drawn in zip(first[1], second[1], cold[1], strict=True))


@pytest.mark.slow
def test_streams_and_exit_codes_are_the_childs_own(starter, tmp_path):
    warm = starter()
    with (tmp_path / "log").open("ab") as log:
        child = warm.start(["echo", "7"], log)
        child.stdin.write(b"heard\n")
        child.stdin.close()
        with child.stdout as output:
            assert output.read() == b"heard\n"
        assert child.wait(PATIENCE_S) == child.returncode == child.poll() == 7
        broken = warm.start(["raise"], log)
        assert broken.wait(PATIENCE_S) == 1
        broken.stdin.close(), broken.stdout.close()
        for how, code in (("none", 0), ("said", 1), ("large", 3)):
            child = warm.start(["exit", how], log)
            with child.stdin, child.stdout as output:
                assert output.read() == b"waited for\nleft\n"
            assert child.wait(PATIENCE_S) == code
    assert (tmp_path / "log").read_text().startswith("said to stderr\nTraceback (most recent call last)")
    assert (tmp_path / "log").read_text().endswith("KeyError: 'probe'\nwhy\n")


@pytest.mark.slow
def test_a_signal_ends_a_child_and_none_is_sent_to_one_that_has_ended(starter):
    warm = starter()
    for end, code in (("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL)):
        child = warm.start(["sleep"])
        assert child.stdout.readline() == b"asleep\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.01)
        assert child.poll() is None
        threading.Thread(target=getattr(child, end)).start()
        assert child.wait() == code
        getattr(child, end)()
        child.stdin.close(), child.stdout.close()
        assert gone(child.pid)


@pytest.mark.slow
def test_one_fork_server_serves_an_environment_and_ends_for_the_next(starter):
    first, late = starter(), starter(SPLITLEAK_GIVEN="late", COLUMNS="70")
    assert first._server is late._server
    child = first.start(["sleep"])
    other = starter(GIVEN="other")
    assert other._server is None  # it starts cold while a child runs
    child.kill()
    child.wait()
    server = first._server._process
    assert starter(GIVEN="other")._server not in (None, first._server)
    assert server.returncode == 0
    last = first.start(["echo", "0"])  # its server has ended: cold
    assert isinstance(last, subprocess.Popen)
    last.communicate(b"\n")
    child.stdin.close(), child.stdout.close()


@pytest.mark.slow
def test_children_of_a_fork_server_that_is_killed_are_ended_and_later_ones_start_cold(starter):
    warm = starter()
    child = warm.start(["sleep"])
    warm._server._process.kill()
    assert child.wait(PATIENCE_S) == -signal.SIGKILL
    assert eventually(lambda: gone(child.pid))
    child.stdin.close(), child.stdout.close()
    assert told(warm.start([]))[0]["argv"][1:] == []


PARENT = """
import os, sys
from splitleak.warm_start import Starter
starter = Starter("probe", ("json",), dict(os.environ))
child = starter.start(["sleep"])
child.stdout.readline()
print(starter._server._process.pid, child.pid, flush=True)
if sys.stdin.readline():
    child.kill()
    child.wait()
    child.stdin.close(), child.stdout.close()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_no_fork_server_is_left_when_the_parent_ends(starter, tmp_path, killed):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, "-W", "error", "-c", PARENT]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **streams, env=environment) as parent:
        server, child = map(int, parent.stdout.readline().split())
        assert not gone(server)
        if killed:
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            os.kill(child, signal.SIGKILL)  # it does not watch its parent, as ours do
        else:
            assert parent.communicate(b"end\n") == (b"", b"")
    assert eventually(lambda: gone(server))
    assert eventually(lambda: gone(child))


FORKABLE = """
import importlib, os, sys, threading
import torch
from splitleak.eval.campaign.processes import PRELOADED

def refused(*_):
    raise AssertionError("CUDA was asked for")

for name in ("_cuda_init", "_cuda_getDeviceCount"):
    if hasattr(torch._C, name):
        setattr(torch._C, name, refused)
for name in PRELOADED:
    importlib.import_module(name)
assert threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
assert not torch.cuda.is_initialized()
"""


@pytest.mark.slow
def test_what_children_need_is_imported_without_a_thread_and_without_cuda():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = subprocess.run([sys.executable, "-c", FORKABLE], env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_elsewhere_and_without_handles_of_processes_children_start_cold(monkeypatch):
    assert warm_start.warm({}) is True
    assert warm_start.warm({COLD_START: "1"}) is False
    monkeypatch.setattr(os, "pidfd_open", lambda _: os.open("/no/such", os.O_RDONLY))
    assert warm_start.warm({}) is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert warm_start.warm({}) is False

import signal
import subprocess
import sys

import pytest

from splitleak.parent_watch import child_environment

CHILD = """
import os, signal, threading
from splitleak.parent_watch import exit_with_parent
signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), os._exit(7)))
exit_with_parent()
print(os.getpid(), flush=True)
threading.Event().wait(60)
"""

PARENT = """
import subprocess, sys, threading
from splitleak.parent_watch import child_environment
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, env=child_environment())
threading.Event().wait()
"""


def test_a_child_is_terminated_when_its_parent_is_killed():
    arguments = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert int(parent.stdout.readline()) != parent.pid  # the child, which writes where its parent does
        parent.kill()
        assert parent.stdout.read() == "terminated\n"  # ends when the child has closed it too


def test_a_child_is_terminated_when_its_parent_closes_the_pipe():
    arguments = [sys.executable, "-c", CHILD]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, **streams, env=child_environment(), text=True) as child:
        child.stdout.readline()
        child.stdin.close()
        assert child.stdout.read() == "terminated\n"
        assert child.wait(timeout=10) == 7


ASKED = """
import os, threading
from splitleak.parent_watch import exit_with_parent
exit_with_parent()
print([thread.name for thread in threading.enumerate()], "SPLITLEAK_LIFELINE" in os.environ)
"""


def test_a_process_that_no_parent_of_ours_started_does_not_watch_its_standard_input():
    arguments = [sys.executable, "-c", ASKED]
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "['MainThread'] False\n"


def test_a_grandchild_does_not_inherit_the_watch():
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", ASKED], **streams, env=child_environment(), text=True) as child:
        assert child.stdout.read() == "['MainThread', 'parent-watch'] False\n"


STUBBORN = """
import signal, threading
from splitleak import parent_watch as lifeline
lifeline._GRACE_S = 1
signal.signal(signal.SIGTERM, lambda *_: None)
lifeline.exit_with_parent()
threading.Event().wait(60)
"""


@pytest.mark.slow
def test_a_child_that_does_not_end_when_asked_is_ended():
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdin=subprocess.PIPE, env=child_environment()) as child:
        child.stdin.close()
        assert child.wait(timeout=30) == -signal.SIGALRM

"""The two faults of the network that a stream of images must survive, in short; the long forms are the bench's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


def outages(*arguments):
    """What `tests.bench.outages`, with real processes and a real link, found."""
    command = [sys.executable, "-m", "tests.bench.outages", *map(str, arguments)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def test_a_cloud_killed_and_restarted_costs_no_image_and_answers_none_twice():
    found = outages("kills", "--kills", 5, "--images", 500)
    assert found["answered_once_in_order"]
    assert found["encoded_once"]
    assert found["right"]
    assert found["outages"] >= 5
    assert found["sent_again"] >= 5


@pytest.mark.parametrize("how", ["refused", "blackholed"])
def test_after_the_link_was_cut_answers_come_within_a_second_and_a_half(how):
    found = outages("cut", "--seconds", 1, "--how", how)
    assert found["answered_once_in_order"]
    assert found["right"]
    assert found["first_answer_s"] < 1.5

"""Kills a campaign again and again at random moments, and compares what it ends with to one that was left alone.

    python tests/bench/kill_campaign.py CAMPAIGN.toml --out FOLDER --kills 20 [OPTIONS OF splitleak campaign run]

Every other kill takes the run alone (its processes must notice), the rest take all its processes in the same moment.
Prints one JSON line; exit status 1 if records, pictures or leakage differ by anything but provenance, durations and
request ids.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from splitleak.eval.campaign.merging import stable


def campaign(arguments, out, log):
    command = [sys.executable, "-P", "-m", "splitleak", "campaign", "run", *arguments, "--out", str(out), "--json"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)


def children(pid):
    """All processes below ``pid``, the nearest first."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += direct
        for child in direct:
            found += children(child)
    return found


def kill(pid, with_children):
    victims = [pid, *(children(pid) if with_children else [])]
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


def killed_run(begin, *, kills, most_s, draw):
    """Begins a run, and kills it within ``most_s`` seconds, until it was killed ``kills`` times or is done before.

    Args:
        begin: Starts the run, or takes it up; gives a process as a context manager, as `subprocess.Popen` is one.
        kills: How often to kill it.
        most_s: The latest moment.
        draw: A `random.Random`, for the moments.

    Returns:
        How often it was killed, and its exit status where it came to its end.
    """
    for made in range(kills):
        with begin() as running:
            try:
                return made, [running.wait(draw.uniform(0, most_s))]
            except subprocess.TimeoutExpired:
                kill(running.pid, with_children=made % 2 == 1)
    return kills, []


def results(folder):
    """Path below ``folder`` to what is there: records, pictures, leakage, what tells no picture."""
    found = {}
    for pattern in ("cells/*/score/record.json", "leakage/*.json", "linkage/*.json"):
        for path in sorted(folder.glob(pattern)):
            found[str(path.relative_to(folder))] = stable(json.loads(path.read_text()))
    for path in sorted(folder.glob("cells/*/score/pictures.npz")):
        with np.load(path) as arrays:
            found[str(path.relative_to(folder))] = {name: arrays[name].tolist() for name in arrays.files}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--start", type=float, default=3.0, help="seconds that a run needs to begin its work")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given, options = parser.parse_known_args()
    arguments = [given.file, *options]
    draw = random.Random(given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (given.out / "alone.log").open("ab") as log:
        alone = campaign(arguments, given.out / "alone", log).wait()
    took = time.monotonic() - began
    most_s = given.start + 1.6 * took / given.kills
    with (given.out / "killed.log").open("ab") as log:
        begin = partial(campaign, arguments, given.out / "killed", log)
        made, codes = killed_run(begin, kills=given.kills, most_s=most_s, draw=draw)
        last = begin().wait()
    left, right = results(given.out / "alone"), results(given.out / "killed")
    differ = sorted(path for path in {*left, *right} if left.get(path) != right.get(path))
    found = {"kills": made, "seconds_alone": round(took, 1), "exits": [alone, *codes, last], "compared": len(left)}
    sys.stdout.write(json.dumps({**found, "differ": differ}) + "\n")
    return 1 if differ or alone or last or not left else 0


if __name__ == "__main__":
    sys.exit(main())

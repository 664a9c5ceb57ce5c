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


def results(folder):
    """Path below ``folder`` to what is there: records, pictures, leakage."""
    found = {}
    for path in sorted((*folder.glob("cells/*/score/record.json"), *folder.glob("leakage/*.json"))):
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
    made, codes = 0, []
    with (given.out / "killed.log").open("ab") as log:
        while made < given.kills:
            running = campaign(arguments, given.out / "killed", log)
            try:
                codes.append(running.wait(draw.uniform(0, given.start + 1.6 * took / given.kills)))
            except subprocess.TimeoutExpired:
                kill(running.pid, with_children=made % 2 == 1)
                running.wait()
                made += 1
            else:
                break  # it is done: nothing is left to kill
        last = campaign(arguments, given.out / "killed", log).wait()
    left, right = results(given.out / "alone"), results(given.out / "killed")
    differ = sorted(path for path in {*left, *right} if left.get(path) != right.get(path))
    found = {"kills": made, "seconds_alone": round(took, 1), "exits": [alone, *codes, last], "compared": len(left)}
    sys.stdout.write(json.dumps({**found, "differ": differ}) + "\n")
    return 1 if differ or alone or last or not left else 0


if __name__ == "__main__":
    sys.exit(main())

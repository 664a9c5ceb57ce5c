"""Runs a campaign on two nodes of Ray on this machine, kills workers and nodes, and compares it to one left alone.

    python -m tests.bench.kill_ray CAMPAIGN.toml --out FOLDER --kills 20 --nodes 2

Prints one JSON line; exit status 1 if records, pictures or leakage differ by anything but provenance, durations and
request ids. Needs the extra ``ray``.
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

from splitleak.eval.campaign.plan import KINDS
from tests.bench.kill_campaign import campaign, children, results


class Nodes:
    """A head without processors, and nodes of one processor each; all of them processes of this machine."""

    def __init__(self, count=2):
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_worker_niceness", "0")  # or its workers give way to all else on this machine
        self._size = {"object_store_memory": 100 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self._size})
        self._nodes = [self._added() for _ in range(count)]
        self.address = self._cluster.address

    def _added(self):
        return self._cluster.add_node(num_cpus=1, **self._size)

    def busy(self):
        """Processes that are at a job."""
        for node in self._nodes:
            for pid in children(node.all_processes["raylet"][0].process.pid):
                try:
                    title = Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                if title.startswith(tuple(f"ray::{kind} ".encode() for kind in KINDS)):  # a task has its job's name
                    yield pid

    def kill_worker(self, draw):
        """Kills a process that is at a job; false where none is."""
        if busy := list(self.busy()):
            os.kill(draw.choice(busy), signal.SIGKILL)
        return bool(busy)

    def replace_node(self, draw):
        """Kills a node with all its processes, and adds another."""
        place = draw.randrange(len(self._nodes))
        self._cluster.remove_node(self._nodes[place], allow_graceful=False)
        self._nodes[place] = self._added()

    def close(self):
        self._cluster.shutdown()


def progress(out):
    """The share of a run's jobs that are done."""
    try:
        jobs = len(json.loads((out / "campaign.json").read_text())["jobs"])
        return len((out / "times.jsonl").read_text().splitlines()) / jobs
    except (FileNotFoundError, ValueError):  # not planned yet, or half written
        return 0.0


def killed_run(arguments, out, log, *, kills, nodes, seed=0, between=(1.0, 2.0)):
    """A run on nodes that are killed as it goes; its exit status, and how many workers and nodes were killed.

    They are spread over the first three quarters of its jobs, so that a fast machine does not end before.
    """
    draw, cluster, done = random.Random(seed), Nodes(), [0, 0]
    running = campaign([*arguments, "--on", f"ray:{cluster.address}"], out, log)
    try:
        while running.poll() is None:
            try:
                running.wait(draw.uniform(*between))
            except subprocess.TimeoutExpired:
                if sum(done) > progress(out) / 0.75 * (kills + nodes):
                    continue
                if done[1] < nodes and done[0] >= (done[1] + 1) * kills // (nodes + 1) and list(cluster.busy()):
                    cluster.replace_node(draw)
                    done[1] += 1
                elif done[0] < kills:
                    done[0] += cluster.kill_worker(draw)
    finally:
        running.kill()
        cluster.close()
    return running.wait(), *done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=2)
    given, options = parser.parse_known_args()
    given.out.mkdir(parents=True, exist_ok=True)
    arguments = [given.file, *options]
    with (given.out / "log").open("ab") as log:
        alone = campaign(arguments, given.out / "alone", log).wait()
        began = time.monotonic()
        code, workers, nodes = killed_run(arguments, given.out / "ray", log, kills=given.kills, nodes=given.nodes)
    took, found = time.monotonic() - began, [results(given.out / name) for name in ("alone", "ray")]
    equal = found[0] == found[1] and bool(found[0])
    counts = {"workers_killed": workers, "nodes_killed": nodes, "results": len(found[0]), "equal": equal}
    sys.stdout.write(json.dumps({"codes": [alone, code], **counts, "seconds": round(took)}) + "\n")
    return 0 if equal and (alone, code) == (0, 0) else 1


if __name__ == "__main__":
    sys.exit(main())

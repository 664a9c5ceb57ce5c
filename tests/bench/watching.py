"""What watching costs a stream of 64 KB through a tap: ``python -m tests.bench.watching [--rounds 15]``.

Cloud, tap and page are processes of their own. A round streams once each way, in an order of its own: with the page's
process stopped (SIGSTOP), and with it awake and nobody watching, a browser that reads all, one that reads nothing, and,
if ``SPLITLEAK_BROWSER`` names a chromium, that. Figures are medians over the rounds: of requests a second; of their
ratio to the stream that is not watched, with quartiles; and of how much of a core the page's process took meanwhile.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from splitleak.attacker.queries import Pairs
from splitleak.datasets.images import Images
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.eval.campaign.processes import service
from tests.bench.outages import FEATURE, Noisy, Process
from tests.bench.serving.contestants import cpu_s

_START_S = 120.0
_SETTLE_S = 3.0  # until a browser that has just started has drawn what there is
_WARM_UP = 20
_READER = "import sys, urllib.request\nfor _ in urllib.request.urlopen(sys.argv[1]): pass"
BARE, UNSEEN = "not watched", "nobody watches"


def gauge(folder: Path) -> list[str]:
    """The options for a linear map to pictures of 32 pixels, learned from noise: what it costs is that of any other."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (200, 3, 32, 32), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.zeros(200, dtype=torch.int64), ("one",))
    images.save(folder / "public.npz")
    features = torch.randn(1, 200, *FEATURE, generator=draw)
    Pairs(features, tuple(images.hashes()), "probe-", 1).save(folder / "pairs.npz")
    return ["--public", str(folder / "public.npz"), "--pairs", str(folder / "pairs.npz")]


@contextlib.contextmanager
def reading(address: str) -> Iterator[None]:
    """A browser that reads all it can, as a process."""
    with subprocess.Popen([sys.executable, "-c", _READER, f"{address}events"]) as process:
        yield
        process.kill()


@contextlib.contextmanager
def stalled(address: str) -> Iterator[None]:
    """A browser that asks and reads nothing."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(f"GET {place.path}events HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
        yield


@contextlib.contextmanager
def chromium(address: str) -> Iterator[None]:
    """A real one, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=os.environ["SPLITLEAK_BROWSER"], args=["--no-sandbox"])
        browser.new_page().goto(address)
        yield
        browser.close()


Watching = Callable[[str], contextlib.AbstractContextManager[None]]
WAYS: dict[str, Watching] = {
    BARE: lambda _: contextlib.nullcontext(),
    UNSEEN: lambda _: contextlib.nullcontext(),
    "a browser reads all": reading,
    "a browser reads nothing": stalled,
    **({"chromium": chromium} if os.environ.get("SPLITLEAK_BROWSER") else {}),
}


def rate(tap: str, requests: int) -> float:
    """Requests a second of a stream of 64 KB."""
    image = np.zeros((1, 1, 4, 4), np.float32)
    config = EdgeConfig(cloud=tap, model="linear")
    with EdgeClient(Noisy(FEATURE, keep=False), config) as client:
        list(client.stream((f"w-{number}", image) for number in range(_WARM_UP)))
        began = time.perf_counter()
        list(client.stream((f"a-{number}", image) for number in range(requests)))
        return requests / (time.perf_counter() - began)


def measure(rounds: int, requests: int) -> dict[str, Any]:
    """By way, the requests a second of each round, and quartiles of their ratio to the stream that is not watched."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cloud = Process(FEATURE, service=False)
        stack.callback(cloud.kill)
        given = ("--upstream", f"127.0.0.1:{cloud.port}", "--capture", str(folder / "tap.capture"))
        tap = stack.enter_context(service(["tap", *given, "--listen", "127.0.0.1:0"], folder / "log"))
        address = str(tap.wait_for("listening", _START_S)["address"])
        shown = ["watch", str(folder / "tap.capture"), *gauge(folder)]
        page = stack.enter_context(service(shown, folder / "log"))
        where = str(page.wait_for("listening", _START_S)["address"])
        stack.callback(os.kill, page.process.pid, signal.SIGCONT)
        draw, rates, shares = random.Random(0), {name: list[float]() for name in WAYS}, dict[str, list[float]]()
        for _ in range(rounds):
            for name in draw.sample(list(WAYS), len(WAYS)):
                os.kill(page.process.pid, signal.SIGSTOP if name == BARE else signal.SIGCONT)
                with WAYS[name](where):
                    time.sleep(_SETTLE_S)
                    before, began = cpu_s(page.process.pid), time.perf_counter()
                    rates[name].append(rate(address, requests))
                    share = (cpu_s(page.process.pid) - before) / (time.perf_counter() - began)
                    shares.setdefault(name, []).append(share)
        ratios = {
            name: statistics.quantiles([ours / bare for ours, bare in zip(rates[name], rates[BARE], strict=True)])
            for name in WAYS
        }
        cores = {name: statistics.median(of) for name, of in shares.items()}
    return {
        "rounds": rounds,
        "requests": requests,
        "of_not_watched": ratios,
        "cores_of_the_page": cores,
        "requests_per_s": rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=2500)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = measure(given.rounds, given.requests)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    rates, ratios, cores = found["requests_per_s"], found["of_not_watched"], found["cores_of_the_page"]
    for name in WAYS:
        low, middle, high = (100 * ratio for ratio in ratios[name])
        figures = f"{statistics.median(rates[name]):6.0f} requests/s {middle:6.1f} % ({low:.0f} to {high:.0f})"
        print(f"{name:24} {figures}, page {100 * cores[name]:5.1f} % of a core")  # noqa: T201


if __name__ == "__main__":
    main()

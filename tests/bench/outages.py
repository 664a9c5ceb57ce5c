"""The edge's client through faults of its cloud and its link: ``python -m tests.bench.outages kills|cut|pipelined``.

``kills``: the cloud's process is killed and restarted, evenly over a stream of images. ``cut``: the link is cut for
some seconds under a stream. ``pipelined``: how much of a link of 50 Mbit/s and 20 ms each way a stream uses. Each
prints one JSON object; `tests/integration/test_faults_client.py` runs short forms. The acceptance's forms:

    python -m tests.bench.outages kills --kills 50 --images 5000 --service
    python -m tests.bench.outages cut --seconds 12 --how refused
    python -m tests.bench.outages cut --seconds 12 --how blackholed
    python -m tests.bench.outages pipelined --images 300
"""

import argparse
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splitleak.cloud.batching import BatchingConfig, ComputeWorker
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.wire.link.link import LinkConfig, link
from splitleak.wire.link.relay import LinkDirection
from splitleak.wire.protocol.answer import Prediction
from splitleak.wire.server.model import ServedModel
from splitleak.wire.server.server import ServerConfig, serve
from splitleak.wire.server.servicer import OpenInferenceServicer

FEATURE = (64, 16, 16)  # 64 KiB
Array = NDArray[np.float32]


class Linear:
    """A cloud's half: the mean and the extremes of each feature. ``feature_shape`` is without the batch axis."""

    name, classes, properties = "linear", 3, {"cut": "1"}

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        self.feature_shape = feature_shape

    def predict(self, features: Array) -> Array:
        flat = features.reshape(len(features), -1)
        return np.stack([flat.mean(1), flat.min(1), flat.max(1)], axis=1)


class Noisy:
    """An edge's half that draws anew each time it runs, and keeps what it sent."""

    def __init__(self, feature_shape: tuple[int, ...], *, keep: bool = True) -> None:
        self.input_shape, self.feature_shape = (1, 4, 4), feature_shape
        self.sent: list[Array] = []
        self._keep = keep
        self._draw = np.random.default_rng(0)
        self._once = self._draw.standard_normal((1, *feature_shape), dtype=np.float32)

    def encode(self, images: Array) -> Array:
        if not self._keep:
            return self._once
        self.sent.append(self._draw.standard_normal((len(images), *self.feature_shape), dtype=np.float32))
        return self.sent[-1]


@contextmanager
def serving(port: int, feature_shape: tuple[int, ...], *, service: bool) -> Iterator[int]:
    """The whole service, or what of it needs no torch and starts five times faster; both queue, batch and drain."""
    half, server = Linear(feature_shape), ServerConfig(address=f"127.0.0.1:{port}")
    if service:
        from splitleak.cloud.service import CloudConfig, cloud

        with cloud(CloudConfig(server=server), half) as bound:
            yield bound
        return
    with ComputeWorker(half.predict, BatchingConfig()) as worker:
        model = ServedModel("linear", "numpy", "features", feature_shape, "logits", (3,), 64, worker.submit)
        servicer = OpenInferenceServicer([model], server_name="linear")
        with serve(servicer.add_to, server, drain=servicer.drain) as bound:
            yield bound


class Process:
    """`serving` in a process of its own, which can be killed and comes back at the same port."""

    def __init__(self, feature_shape: tuple[int, ...], *, service: bool) -> None:
        self.port = 0
        self._arguments = [*("--features", *map(str, feature_shape)), *(["--service"] if service else [])]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.bench.outages", "serve", "--port", str(self.port), *self._arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        with self._process:
            self._process.kill()


def stream(
    config: EdgeConfig, encoder: Noisy, count: int, heard: Callable[[int], None]
) -> tuple[list[Prediction], int]:
    """Sends ``count`` images and calls ``heard`` with the number of answers so far; the answers, and the outages."""
    image = np.zeros((1, 1, 4, 4), np.float32)
    answers = []
    with EdgeClient(encoder, config) as client:
        for answer in client.stream((f"image-{index}", image) for index in range(count)):
            answers.append(answer)
            heard(len(answers))
        return answers, client.outages


def judged(answers: list[Prediction], encoder: Noisy, count: int) -> dict[str, Any]:
    """Whether each of ``count`` images has one answer, in order, to the features that it was encoded to, once."""
    expected = [f"image-{index}" for index in range(count)]
    right = Linear(encoder.feature_shape).predict(np.concatenate(encoder.sent))
    return {
        "images": count,
        "answered_once_in_order": [each.request_id for each in answers] == expected,
        "encoded_once": len(encoder.sent) == count,
        "right": bool(np.allclose([each.output[0] for each in answers], right, atol=1e-5)),
        "sent_again": sum(each.sends - 1 for each in answers),
    }


def kills(images: int, times: int, *, service: bool) -> dict[str, Any]:
    """Kills the cloud ``times`` times, each after the same number of answers, and restarts it at once."""
    shape, started = (2, 4, 4), time.monotonic()
    process, encoder = Process(shape, service=service), Noisy(shape)
    answered, marks = threading.Semaphore(0), itertools.pairwise(np.linspace(0, images, times + 2, dtype=int)[:-1])

    def terrorise() -> None:
        for last, mark in marks:
            for _ in range(mark - last):
                answered.acquire()
            process.kill()
            process.start()

    terrorist = threading.Thread(target=terrorise, daemon=True)
    terrorist.start()
    config = EdgeConfig(cloud=f"127.0.0.1:{process.port}", model="linear", window=8)
    answers, outages = stream(config, encoder, images, lambda _: answered.release())
    terrorist.join()
    process.kill()
    seconds = round(time.monotonic() - started, 1)
    return {**judged(answers, encoder, images), "kills": times, "outages": outages, "seconds": seconds}


def cut(seconds: float, how: Literal["refused", "blackholed"]) -> dict[str, Any]:
    """Cuts a link for ``seconds`` under a stream; how long after its return the next answer comes."""
    shape, before, after = (2, 4, 4), 100, 100
    encoder, direction = Noisy(shape), LinkDirection(rate_mbps=50, delay_ms=20)
    times: list[float] = []
    reached = threading.Event()

    def heard(count: int) -> None:
        times.append(time.monotonic())
        if count == before:
            reached.set()

    with ExitStack() as stack:
        port = stack.enter_context(serving(0, shape, service=False))
        slow = stack.enter_context(link(LinkConfig(up=direction, down=direction), f"127.0.0.1:{port}"))
        restored = []

        def interrupt() -> None:
            reached.wait()
            slow.cut(how)
            time.sleep(seconds)
            slow.restore()
            restored.append(time.monotonic())

        saboteur = threading.Thread(target=interrupt, daemon=True)
        saboteur.start()
        config = EdgeConfig(cloud=slow.address, model="linear", window=8)
        answers, outages = stream(config, encoder, before + after, heard)
        saboteur.join()
    first = min(each for each in times if each > restored[0]) - restored[0]
    made = judged(answers, encoder, before + after)
    return {**made, "cut_s": seconds, "how": how, "outages": outages, "first_answer_s": round(first, 3)}


def pipelined(images: int) -> dict[str, Any]:
    """The share of a link of 50 Mbit/s and 20 ms each way that a stream of 64 KiB features uses, by its payload."""
    direction = LinkDirection(rate_mbps=50, delay_ms=20)
    found: dict[str, Any] = {"payload_bytes": 4 * int(np.prod(FEATURE)), "images": images}
    process = Process(FEATURE, service=False)
    times: list[float] = []
    for window in (1, 4, 8, 16):
        times.clear()
        with link(LinkConfig(up=direction, down=direction), f"127.0.0.1:{process.port}") as slow:
            config = EdgeConfig(cloud=slow.address, model="linear", window=window)
            stream(config, Noisy(FEATURE, keep=False), images, lambda _: times.append(time.monotonic()))
        steady = times[window:]  # the first answers open the way
        rate = (len(steady) - 1) * found["payload_bytes"] * 8e-6 / (steady[-1] - steady[0])
        found[f"window_{window}"] = {"mbps": round(rate, 2), "share": round(rate / 50, 3)}
    process.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "cut", "pipelined", "serve"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--service", action="store_true", help="the whole service, with torch")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--how", choices=["refused", "blackholed"], default="refused")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--features", type=int, nargs="+")
    given = parser.parse_args()
    if given.what == "serve":
        with serving(given.port, tuple(given.features), service=given.service) as port:
            sys.stdout.write(f"{port}\n")
            sys.stdout.flush()
            sys.stdin.read()
        return
    found = {
        "kills": lambda: kills(given.images, given.kills, service=given.service),
        "cut": lambda: cut(given.seconds, given.how),
        "pipelined": lambda: pipelined(given.images),
    }[given.what]()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

"""What is compared: each part gives its figures, and its ratios beside their targets."""

import contextlib
import logging
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from splitleak.wire.client.channel import connect
from splitleak.wire.link.link import LinkConfig, link
from splitleak.wire.link.relay import LinkDirection
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.protocol.request import RequestEncoder
from tests.bench.serving import clients
from tests.bench.serving.clients import Task
from tests.bench.serving.contestants import PEERS, Server, cpu_s, free_port
from tests.bench.serving.rounds import Turn, Way, interleave, medians, ratio

_LOGGER = logging.getLogger(__name__)
SMALL, LARGE = (8, 8, 8), (64, 16, 16)
SIZES = {"2 KB": ("null2k", SMALL, 1, 30), "64 KB": ("null64k", LARGE, 1, 30), "2 MB": ("null64k", LARGE, 32, 6)}
_TOLERANCE = 1e-4
_IN_FLIGHT, _BURST = 8, 32
_PROBES, _PROBE_EVERY_S = 200, 0.01
_START_S, _POLL_S = 60.0, 0.01
_MBPS, _ONE_WAY_MS, _WINDOW, _PIPELINED = 50.0, 20.0, 16, 300


@dataclass(frozen=True)
class Target:
    """A figure, and what it should be at most, or at least."""

    name: str
    value: float | None
    limit: float
    at_least: bool = False
    processor: float | None = None  # the same in time of the processor, both sides, which a busy machine disturbs less

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def compared(
    name: str, turns: Mapping[str, list[Turn]], one: str, other: str, limit: float, *, at_least: bool = False
) -> Target:
    """How often ``other``'s time ``one`` took, beside its limit."""
    value, processor = (ratio(turns, one, other, part) for part in ("ms", "processor_ms"))
    return Target(name, value, limit, at_least, processor)


@dataclass(frozen=True)
class Found:
    """What a part has measured."""

    figures: dict[str, Any] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)


@dataclass
class Bench:
    """Where the parts are measured: who runs, and what they draw their order from."""

    servers: dict[str, Server]
    triton: clients.Tritonclient
    rounds: int
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def ways(self, stack: contextlib.ExitStack, suffix: str = "", **task: Any) -> list[Way]:
        """Every client's way to every server that has the model, its answers held to the socket's.

        Raises:
            RuntimeError: One answers with other logits: what it takes is of no interest.
        """
        makers: list[tuple[str, str, Callable[[Task], Any]]] = [
            ("socket", "socket", clients.by_socket),
            ("ours, our stream", "ours", clients.by_our_client),
            ("ours, our calls", "ours", partial(clients.by_our_client, streams=False)),
            ("ours, tritonclient", "ours", self.triton),
        ]
        if task.get("in_flight", 1) == 1:
            makers.append(("ours, bare unary", "ours", clients.by_our_unary))
        if task["model"] != "eager":
            makers += [(f"{peer}, tritonclient", peer, self.triton) for peer in PEERS]
            makers += [(f"{peer}, our client", peer, clients.by_our_client) for peer in ("kserve", "triton")]
        made: list[Way] = []
        expected: np.ndarray | None = None
        for name, of, maker in makers:
            if of not in self.servers:
                continue
            server = self.servers[of]
            with server.awake():
                send = stack.enter_context(maker(Task(server.address, **task)))
                logits = send(1).logits
            expected = logits if expected is None else expected
            if logits.shape != expected.shape or not np.allclose(logits, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise RuntimeError(f"{name}: expected the logits of the bare socket, got others")
            made.append(Way(f"{name}{suffix}", server, send))
        return made

    def interleave(self, ways: list[Way], calls: int) -> dict[str, list[Turn]]:
        return interleave(ways, self.rounds, calls, self.draw)


def rpc(bench: Bench) -> Found:
    """The way there and back alone: a model that computes nothing."""
    found, turns = Found(), {}
    for size, (model, shape, rows, calls) in SIZES.items():
        with contextlib.ExitStack() as stack:
            ways = bench.ways(stack, model=model, shape=shape, rows=rows)
            taken = turns[size] = bench.interleave(ways, calls)
        found.figures[size] = medians(taken)
    for size in ("2 KB", "64 KB"):
        unary, stream = partial(compared, turns=turns[size], one="ours, tritonclient"), "ours, our stream"
        found.targets.append(unary(f"unary, {size}, of KServe's", other="kserve, tritonclient", limit=1.0))
        if size == "64 KB":
            found.targets.append(unary(f"unary, {size}, of MLServer's", other="mlserver, tritonclient", limit=1 / 3))
        found.targets.append(unary(f"unary, {size}, of Triton's", other="triton, tritonclient", limit=1.25))
        for other, whose in (
            ("our calls", "our client's"),
            ("bare unary", "a bare"),
            ("tritonclient", "tritonclient's"),
        ):
            name = f"our stream, {size}, of {whose} unary"
            found.targets.append(compared(name, turns[size], stream, f"ours, {other}", 0.7))
    found.targets.append(compared("our stream, 2 MB, of the socket", turns["2 MB"], "ours, our stream", "socket", 6))
    return found


def tail(bench: Bench) -> Found:
    """With the real half: one request at a time, then eight under way."""
    found, taken = Found(), {}
    for in_flight, calls in ((1, 8), (_IN_FLIGHT, _BURST)):
        with contextlib.ExitStack() as stack:
            ways = bench.ways(stack, ", onnx", model="tail", shape=LARGE, in_flight=in_flight)
            ways += bench.ways(stack, ", eager", model="eager", shape=LARGE, in_flight=in_flight)
            taken[in_flight] = bench.interleave(ways, calls)
        found.figures[f"{in_flight} in flight"] = medians(taken[in_flight])
    alone, together = taken[1], taken[_IN_FLIGHT]
    both = (("onnx", "onnx", 1.10), ("eager", "eager", 1.10), ("onnx", "eager", 0.60))
    for ours, theirs, limit in both:
        name, one, other = (
            f"batch 1, {ours}, of the socket with {theirs}",
            f"ours, our stream, {ours}",
            f"socket, {theirs}",
        )
        found.targets.append(compared(name, alone, one, other, limit))
    for ours, theirs in (("eager", "eager"), ("onnx", "eager")):
        name, one = f"samples/s, 8 in flight, {ours}, of the socket with {theirs}", f"ours, our stream, {ours}"
        found.targets.append(compared(name, together, f"socket, {theirs}", one, 1.9, at_least=True))
    return found


def readiness(bench: Bench) -> Found:
    """How long ServerReady takes while the real half is kept busy."""
    found, server = Found(), bench.servers["ours"]
    tensor = codec.encode(Task(server.address, "tail", LARGE).features, "fp32")
    message = RequestEncoder("tail", "features").message(tensor, request_id="busy")
    with server.awake(), contextlib.ExitStack() as stack:
        busy, asking = (stack.enter_context(connect(server.address, clients.CHANNEL)) for _ in range(2))
        ready = GRPCInferenceServiceStub(asking).ServerReady
        for in_flight in (8, 64):
            taken = []
            with clients.kept_busy(busy, message, in_flight):
                for _ in range(_PROBES):
                    start = time.perf_counter()
                    ready(pb.ServerReadyRequest(), timeout=clients.TIMEOUT_S)
                    taken.append(1000 * (time.perf_counter() - start))
                    time.sleep(_PROBE_EVERY_S)
            p50, p95 = (float(np.percentile(taken, each)) for each in (50, 95))
            found.figures[f"{in_flight} in flight"] = {"p50_ms": p50, "p95_ms": p95, "probes": _PROBES}
            found.targets.append(Target(f"ServerReady, {in_flight} in flight, p95 in ms", p95, 10))
    return found


def pipeline(bench: Bench) -> Found:
    """How much of a slow link our stream uses, by the bytes of its tensors alone."""
    direction = LinkDirection(rate_mbps=_MBPS, delay_ms=_ONE_WAY_MS)
    server, shares = bench.servers["ours"], []
    with server.awake(), link(LinkConfig(up=direction, down=direction), server.address) as between:
        task = Task(between.address, "null64k", LARGE, in_flight=_WINDOW)
        for _ in range(min(bench.rounds, 3)):
            with clients.by_our_client(task) as send:
                send(_WINDOW)
                shares.append(task.features.nbytes * 8 / (send(_PIPELINED).ms / 1000) / (_MBPS * 1e6))
    name = f"64 KB stream, share of {_MBPS:g} Mbit/s, {_ONE_WAY_MS:g} ms each way"
    return Found({"shares": shares}, [Target(name, statistics.median(shares), 0.9, at_least=True)])


def start(models: Path, rounds: int) -> Found:
    """From the start of ``splitleak cloud`` until it says that its model is ready."""
    taken, spent = [], []
    for _ in range(min(rounds, 5)):
        port = free_port()
        command = [sys.executable, "-P", "-m", "splitleak", "cloud", str(models / "artifact"), "--listen"]
        began = time.perf_counter()
        with subprocess.Popen([*command, f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL) as process:
            try:
                _await_model(port, process)
                taken.append(time.perf_counter() - began)
                spent.append(cpu_s(process.pid))
            finally:
                process.terminate()
    target = Target("start to ModelReady, in s", statistics.median(taken), 4, processor=statistics.median(spent))
    return Found({"seconds": taken, "of the processor": spent}, [target])


def _await_model(port: int, process: subprocess.Popen[bytes]) -> None:
    options = [
        ("grpc.max_reconnect_backoff_ms", 50),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
    ]
    until = time.monotonic() + _START_S
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        ask = GRPCInferenceServiceStub(channel).ModelReady
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(grpc.RpcError):
                if ask(pb.ModelReadyRequest(name="tail"), timeout=1).ready:
                    return
            time.sleep(_POLL_S)
    raise RuntimeError("splitleak cloud did not come up")


def encoding(rounds: int) -> Found:
    """The edge's half as `splitleak edge` runs it, and in eager torch; milliseconds of the processor, batch 1."""
    from tests.bench.serving.encoders import compare

    figures = compare(5 * rounds)
    targets = [
        Target(f"{name}, eager's time of ours", each["ratio"], 4, at_least=True) for name, each in figures.items()
    ]
    return Found(figures, targets)


SERVED: dict[str, Callable[[Bench], Found]] = {
    "rpc": rpc,
    "tail": tail,
    "readiness": readiness,
    "link": pipeline,
}
NAMES: Sequence[str] = (*SERVED, "start", "encoding")

"""How a request reaches a contestant: each client is a context manager that gives a `Sender`."""

import contextlib
import itertools
import json
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.edge.encoder import PassThrough
from splitleak.wire.address import parse_address
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import MODEL_INFER
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.request import RequestEncoder

TIMEOUT_S = 60.0
CHANNEL = ChannelConfig(timeout_s=TIMEOUT_S, keepalive_s=3600)  # a stopped server answers no pings
MODELS = ("null2k", "null64k", "tail", "eager")  # the socket's server knows them by their place
HEAD = struct.Struct("<III")
_SCRIPT = Path(__file__).parent / "servers" / "triton_client.py"

Floats = np.ndarray


@dataclass(frozen=True)
class Sent:
    """What so many requests took: milliseconds by the clock and of the client's processor, a request."""

    ms: float
    client_ms: float
    logits: Floats


Sender = Callable[[int], Sent]
"""Sends the same features so many times."""


@dataclass(frozen=True)
class Task:
    """To whom, for which of its models, what, and how many requests are under way."""

    address: str
    model: str
    shape: tuple[int, ...]  # of one row
    rows: int = 1
    in_flight: int = 1

    @property
    def features(self) -> Floats:
        return np.random.default_rng(0).random((self.rows, *self.shape), dtype=np.float32)


def one_by_one(call: Callable[[], Floats], count: int) -> Sent:
    """The median of ``count`` calls."""
    cpu, taken = time.process_time(), []
    for _ in range(count):
        start = time.perf_counter()
        logits = call()
        taken.append(time.perf_counter() - start)
    return Sent(1000 * statistics.median(taken), 1000 * (time.process_time() - cpu) / count, logits)


def all_together(burst: Callable[[int], list[Floats]], count: int) -> Sent:
    """The mean of ``count`` requests, of which several are under way."""
    cpu, start = time.process_time(), time.perf_counter()
    logits = burst(count)[-1]
    taken, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Sent(1000 * taken / count, 1000 * cpu / count, logits)


@contextlib.contextmanager
def by_socket(task: Task) -> Iterator[Sender]:
    """The least there can be: a head of three numbers, the bytes, and the answer's; a connection for each under way."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(task.in_flight) as pool:
        idle: deque[socket.socket] = deque()
        for _ in range(task.in_flight):
            connection = socket.create_connection(parse_address(task.address), timeout=TIMEOUT_S)
            idle.append(stack.enter_context(connection))
            idle[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        values = task.features

        def call(_: int = 0) -> Floats:
            connection, raw = idle.popleft(), values.tobytes()
            connection.sendall(HEAD.pack(MODELS.index(task.model), task.rows, len(raw)))
            connection.sendall(raw)
            answer = bytearray(4 * 10 * task.rows)
            view, filled = memoryview(answer), 0
            while filled < len(answer):
                filled += _some(connection, view[filled:])
            idle.append(connection)
            return np.frombuffer(answer, "<f4").reshape(task.rows, 10)

        if task.in_flight == 1:
            yield lambda count: one_by_one(call, count)
        else:
            yield lambda count: all_together(lambda several: list(pool.map(call, range(several))), count)


def _some(connection: socket.socket, view: memoryview) -> int:
    count = connection.recv_into(view)
    if not count:
        raise ConnectionError("expected an answer, but the connection was closed")
    return count


@contextlib.contextmanager
def by_our_unary(task: Task) -> Iterator[Sender]:
    """One call a request, with our encoder of requests and our channel."""
    numbers, encoder, values = itertools.count(), RequestEncoder(task.model, "features"), task.features
    with connect(task.address, CHANNEL) as channel:
        infer = channel.unary_unary(MODEL_INFER, None, pb.ModelInferResponse.FromString)

        def call() -> Floats:
            message = encoder.message(codec.encode(values, "fp32"), request_id=str(next(numbers)))
            return codec.response_array(infer(message, timeout=TIMEOUT_S), "logits")

        yield lambda count: one_by_one(call, count)


@contextlib.contextmanager
def by_our_client(task: Task, *, streams: bool = True) -> Iterator[Sender]:
    """The edge's client as it is, with all its checks: one stream where the server has it, else calls."""
    numbers, values = itertools.count(), task.features
    config = EdgeConfig(cloud=task.address, model=task.model, window=task.in_flight, channel=CHANNEL, streams=streams)
    with EdgeClient(PassThrough(task.shape), config) as client:

        def call() -> Floats:
            return client.submit(values, str(next(numbers))).result(TIMEOUT_S).output

        def burst(count: int) -> list[Floats]:
            return [each.output for each in client.stream((str(next(numbers)), values) for _ in range(count))]

        if task.in_flight == 1:
            yield lambda count: one_by_one(call, count)
        else:
            yield lambda count: all_together(burst, count)


class Tritonclient:
    """The client that Triton's users have, one call a request, in a process of its own; a context manager."""

    def __enter__(self) -> "Tritonclient":
        command = [sys.executable, str(_SCRIPT)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(TIMEOUT_S)

    @contextlib.contextmanager
    def __call__(self, task: Task) -> Iterator[Sender]:
        asked = {"address": task.address, "model": task.model, "shape": (task.rows, *task.shape)}
        asked["threads"] = task.in_flight

        def send(count: int) -> Sent:
            self._process.stdin.write(json.dumps({**asked, "calls": count}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"tritonclient failed with model {task.model!r} at {task.address}")
            told = json.loads(line)
            return Sent(statistics.median(told["ms"]), told["cpu_ms"], np.array(told["logits"], np.float32))

        yield send


@contextlib.contextmanager
def kept_busy(channel: grpc.Channel, message: bytes, in_flight: int) -> Iterator[None]:
    """Keeps ``in_flight`` unary requests under way while the block runs.

    Raises:
        RuntimeError: (at the end) one of them failed.
    """
    infer = channel.unary_unary(MODEL_INFER, None, None)
    ending, failed, pending = [False], [], set()

    def send() -> None:
        call = infer.future(message, timeout=TIMEOUT_S)
        pending.add(call)
        call.add_done_callback(again)

    def again(call: grpc.Future) -> None:
        pending.discard(call)
        if call.code() is not grpc.StatusCode.OK:
            failed.append(f"{call.code().name}: {call.details()}")
        elif not ending[0]:
            send()

    for _ in range(in_flight):
        send()
    try:
        yield
    finally:
        ending[0] = True
        for call in list(pending):
            call.exception(TIMEOUT_S)
    if failed:
        raise RuntimeError(f"expected every request to be answered, but {len(failed)} failed, such as {failed[0]}")

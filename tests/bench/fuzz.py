"""Malformed messages against a running server of ours: ``python -m tests.bench.fuzz --messages 100000``.

Valid requests are changed in structure and in bytes, and sent to every method, alone and in streams. The server, a
process of its own, must answer each with a status that names the client's fault, stay up, answer valid requests rightly
all along, and grow no more once its allocator is warm. Ends with status 1, and says why, if it does not.
"""

import argparse
import functools
import json
import logging
import os
import random
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.protocol import CODECS, codec
from splitleak.wire.protocol.paths import MODEL_INFER, MODEL_STREAM_INFER, method_path
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.server.server import run_until_stopped

_LOGGER = logging.getLogger(__name__)
_OTHERS = [
    *map(method_path, ("ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics")),
    *map(method_path, ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex")),
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
SANE = frozenset({"OK", "INVALID_ARGUMENT", "NOT_FOUND"})  # and DEADLINE_EXCEEDED, for who asks for no time
_SLOWEST_S = 20.0
_SHAPE, _CLASSES = (2, 3), 4
_THREADS = 4
_IN_STREAM = 20
_PARTS = 10
_TOO_LARGE, _LARGEST = "RESOURCE_EXHAUSTED", 2**20  # bytes; the server's limit for this half is just above
_GROWTH_BYTES = 20 * 2**20  # from the first half to the second: beyond it, memory is not flat
_DATATYPES = ("FP64", "BYTES", "BF16", "fp32", "UINT8")
_HUGE = (0, -1, 2**31, 2**62, -(2**63), 2**63 - 1)

Request = pb.ModelInferRequest


class Half:
    """Softmax of the first values is what comes back, so that a right answer is known."""

    name, feature_shape, classes, properties = "half", _SHAPE, _CLASSES, {"cut": "1"}

    def predict(self, features: np.ndarray) -> np.ndarray:
        return features.reshape(len(features), -1)[:, :_CLASSES]


def valid(draw: random.Random) -> Request:
    rows = np.array([[draw.gauss(0, 1) for _ in range(6)] for _ in range(draw.randint(1, 4))], np.float32)
    tensor = codec.encode(rows.reshape(-1, *_SHAPE), draw.choice(list(CODECS)))
    return codec.request("half", tensor, request_id=str(draw.getrandbits(40)))


def _reshaped(draw: random.Random, request: Request) -> None:
    sizes = [draw.choice((*_HUGE, 1, 2, 3, draw.randint(1, 10_000))) for _ in range(draw.choice((0, 1, 3, 3, 3, 50)))]
    request.inputs[0].shape[:] = sizes


def _without_numbers(draw: random.Random, request: Request) -> None:
    values = [draw.choice((np.nan, np.inf, -np.inf, 3e38, 1.0)) for _ in range(6)]
    tensor = codec.WireTensor("FP32", (1, *_SHAPE), np.array(values, "<f4").tobytes())
    request.CopyFrom(codec.request("half", tensor, request_id="nan"))


def _typed(draw: random.Random, request: Request) -> None:
    contents = request.inputs[0].contents
    field = draw.choice([field.name for field in contents.DESCRIPTOR.fields])
    value = {"bytes_contents": b"x", "bool_contents": True}.get(field, draw.choice((1, 7, 255, 300)))
    getattr(contents, field).extend([value] * draw.randint(1, 24))
    if draw.random() < 0.5:
        del request.raw_input_contents[:]


@functools.cache
def _bomb() -> bytes:
    return zlib.compress(bytes(10_000_000), 9)


def _raw(draw: random.Random, request: Request) -> None:
    raw = request.raw_input_contents[0]
    other = (raw[:-1], raw + b"\0", b"", raw * 1000, draw.randbytes(len(raw)), _bomb())
    request.raw_input_contents[:] = draw.choice([[one] for one in other] + [[], [raw, raw], [raw] * 100])


def _parameters(draw: random.Random, request: Request) -> None:
    kinds: list[tuple[str, object]] = [
        *(("int64_param", value) for value in _HUGE),
        *(("double_param", value) for value in (float("nan"), float("inf"), -1.0, 0.0, 1e308, 5e-324)),
        *(("string_param", value) for value in ("", "deflate", "gzip", "x" * 10_000)),
        *(("bool_param", value) for value in (True, False)),
    ]
    name = draw.choice(("scale", "zero_point", "encoding", "timeout", "priority", "sequence_id"))
    place = request if draw.random() < 0.4 else request.inputs[0]
    kind, value = draw.choice(kinds)
    setattr(place.parameters[name], kind, value)


def _named(draw: random.Random, request: Request) -> None:
    word = draw.choice(("", "x", "half\0", "../half", "ü" * 1000, "%s%n", "x" * 100_000))
    change: Callable[[], None] = draw.choice(
        (
            lambda: setattr(request, "model_name", word),
            lambda: setattr(request, "model_version", word),
            lambda: setattr(request, "id", word),
            lambda: setattr(request.inputs[0], "name", word),
            lambda: setattr(request.inputs[0], "datatype", draw.choice((word, *_DATATYPES))),
            lambda: setattr(request.outputs.add(), "name", word),
        )
    )
    change()


def _counted(draw: random.Random, request: Request) -> None:
    if draw.random() < 0.3:
        del request.inputs[:]
    else:
        request.inputs.extend([request.inputs[0]] * draw.choice((1, 2, 500)))


_STRUCTURES = (_reshaped, _without_numbers, _typed, _raw, _parameters, _named, _counted)


def _garbled(draw: random.Random, message: bytes) -> bytes:
    """The same bytes, broken: cut, flipped, filled with others, not UTF-8, with unknown fields, nested deeply."""
    at = draw.randrange(len(message) + 1)
    how = draw.randrange(7)
    if how == 0:
        return message[:at]
    if how == 1:
        flipped = bytearray(message)
        for _ in range(draw.randint(1, 8)):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if how == 2:
        return message[:at] + draw.randbytes(draw.randint(1, 40)) + message[at:]
    if how == 3:
        return draw.randbytes(draw.choice((0, 1, 10, 1000)))
    if how == 4:
        return message.replace(b"half", b"ha\xff\xfe").replace(b"features", b"feat\xc3\x28es")
    if how == 5:
        return message + b"\xfa\x7f" + bytes([100]) + draw.randbytes(100)
    return b"\x0b" * draw.choice((10, 100, 10_000)) + message  # groups that begin and never end


def message(draw: random.Random, *, garbled: bool) -> bytes:
    """A request that is changed in its structure, or is one in twenty as it should be; its bytes broken if asked."""
    request = valid(draw)
    if draw.random() > 0.05:
        for change in draw.sample(_STRUCTURES, draw.choice((0, 1, 2) if garbled else (1, 1, 2))):
            if request.inputs and request.raw_input_contents:
                change(draw, request)
    packed = request.SerializeToString()
    return _garbled(draw, packed) if garbled else packed


class Fuzzer:
    """Sends messages over one connection and counts the statuses; ``faults`` is what must not be."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.statuses: Counter[str] = Counter()
        self.faults: list[str] = []
        self._channel = channel

    def alone(self, method: str, message: bytes) -> None:
        started = time.monotonic()
        try:
            answer = list(self._channel.unary_stream(method)(message, timeout=2 * _SLOWEST_S))
            status = "OK" if answer else "EMPTY"
        except grpc.RpcError as error:
            status = error.code().name
        self._judge(method, message, status, started)

    def streamed(self, sent: list[bytes]) -> None:
        """One stream; bytes that are no message, or too many, end it; what else is wrong is answered in its place."""
        started, statuses = time.monotonic(), []
        try:
            call = self._channel.stream_stream(MODEL_STREAM_INFER)(iter(sent), timeout=2 * _SLOWEST_S)
            for raw in call:
                error = pb.ModelStreamInferResponse.FromString(raw).error_message
                statuses.append(error.partition(":")[0] if error else "OK")
        except grpc.RpcError as error:
            statuses.append(error.code().name)
        if statuses and statuses[-1] == _TOO_LARGE and any(len(message) > _LARGEST for message in sent):
            self.statuses[statuses.pop()] += 1
            self.statuses["ENDED"] += len(sent) - len(statuses) - 1  # of its stream, before an answer
        elif len(statuses) != len(sent):
            self.faults.append(f"{MODEL_STREAM_INFER}: {len(statuses)} statuses for {len(sent)} messages")
        for place, status in enumerate(statuses[: len(sent)]):
            self._judge(MODEL_STREAM_INFER, sent[place], status, started)

    def check(self, draw: random.Random) -> None:
        """A valid request is answered rightly."""
        rows = np.array([[draw.gauss(0, 1) for _ in range(6)]], np.float32).reshape(1, *_SHAPE)
        request = codec.request("half", codec.encode(rows, "fp32"), request_id="check")
        raw = self._channel.unary_unary(MODEL_INFER)(request.SerializeToString(), timeout=_SLOWEST_S)
        got = codec.response_array(pb.ModelInferResponse.FromString(raw), "probabilities")
        wide = np.exp(rows.reshape(1, -1)[:, :_CLASSES])
        if not np.allclose(got, wide / wide.sum(), atol=1e-5):
            self.faults.append(f"a valid request got {got}")

    def _judge(self, method: str, sent: bytes, status: str, started: float) -> None:
        self.statuses[status] += 1
        hurried = status == "DEADLINE_EXCEEDED" and b"timeout" in sent
        took = time.monotonic() - started
        refused = status == _TOO_LARGE and len(sent) > _LARGEST
        if (status not in SANE and not hurried and not refused) or took > _SLOWEST_S:
            self.faults.append(f"{method}: {status} after {took:.1f} s for {sent[:200].hex()}")


def _fuzz(address: str, seed: int, count: int) -> Fuzzer:
    draw = random.Random(seed)
    with connect(address, ChannelConfig(connect_timeout_s=60)) as channel:
        fuzzer, left = Fuzzer(channel), count
        while left:
            many = min(draw.choice((1, 1, 1, 1, 1, 1, 1, _IN_STREAM)), left)
            if many > 1:  # only the last one ends the stream
                fuzzer.streamed([message(draw, garbled=at == many - 1) for at in range(many)])
            else:
                method = MODEL_INFER if draw.random() < 0.75 else draw.choice(_OTHERS)
                fuzzer.alone(method, message(draw, garbled=draw.random() < 0.5))
            left -= many
            if draw.random() < 0.02:
                fuzzer.check(draw)
        fuzzer.check(draw)
    return fuzzer


def run(count: int, seed: int) -> dict[str, object]:
    """Fuzzes a server process with ``count`` messages; what it found, and its memory after each tenth of them."""
    command = [sys.executable, "-m", "tests.bench.fuzz", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        drained = ThreadPoolExecutor(1).submit(process.stderr.read)
        try:
            address = f"127.0.0.1:{int(process.stdout.readline())}"
            started, done, sizes = time.monotonic(), [], []
            for part in range(_PARTS):
                done += _all(address, _PARTS * seed + part, count // _PARTS)
                sizes.append(_resident(process.pid))
            alive = process.poll() is None
            taken = time.monotonic() - started
        finally:
            process.terminate()
        code = process.wait(_SLOWEST_S)
        said = drained.result(_SLOWEST_S)
    faults = [fault for each in done for fault in each.faults]
    faults += [] if alive and code == 0 else [f"the server ended with {code}"]
    faults += [f"the server said {said[:2000]!r}"] if said else []
    half = _PARTS // 2
    if max(sizes[half:]) - max(sizes[:half]) > _GROWTH_BYTES:
        faults.append(f"memory grew to the end: {sizes} bytes")
    statuses = sum((each.statuses for each in done), Counter[str]())
    return {
        "messages": sum(statuses.values()),
        "seed": seed,
        "faults": faults,
        "statuses": dict(statuses.most_common()),
        "resident_mib": [round(size / 2**20) for size in sizes],
        "seconds": round(taken, 1),
    }


def _all(address: str, seed: int, count: int) -> list[Fuzzer]:
    parts = [count // _THREADS + (place < count % _THREADS) for place in range(_THREADS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda place: _fuzz(address, 1000 * seed + place, parts[place]), range(_THREADS)))


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _serve() -> None:
    from splitleak.cloud.policy import PolicyConfig  # the cloud takes seconds to load, and only the server needs it
    from splitleak.cloud.service import CloudConfig, cloud

    service = cloud(CloudConfig(policy=PolicyConfig()), Half())
    run_until_stopped(service, lambda port: os.write(1, f"{port}\n".encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help="be the server")
    asked = parser.parse_args()
    logging.basicConfig(level="INFO" if not asked.serve else "WARNING", format="%(message)s")
    if asked.serve:
        _serve()
        return
    found = run(asked.messages, asked.seed)
    _LOGGER.info("%s", json.dumps(found, indent=2))
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()

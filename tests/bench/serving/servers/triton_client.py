"""tritonclient in a process of its own, for its messages and ours cannot be in one: ``triton_client.py``.

Reads one JSON object a line: ``address``, ``model``, ``shape`` of the batch, ``calls`` and ``threads``. Sends the batch
``calls`` times, with a client for each of ``threads``, and writes ``ms`` of each call (of all, a call, with threads),
``cpu_ms`` a call, and ``logits``. Ends when its standard input does.
"""

import contextlib
import json
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import tritonclient.grpc as triton

from splitleak.wire.server.malloc import keep_big_buffers

TIMEOUT_S = 60


@cache
def client(address, number):
    return triton.InferenceServerClient(address)


@cache
def pool(threads):
    return ThreadPoolExecutor(threads)


@cache
def features(shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def infer(by, model, values):
    given = triton.InferInput("features", values.shape, "FP32")
    given.set_data_from_numpy(values)
    return by.infer(model, [given], client_timeout=TIMEOUT_S).as_numpy("logits")


def one_by_one(asked, values):
    by, taken = client(asked["address"], 0), []
    for _ in range(asked["calls"]):
        start = time.perf_counter()
        logits = infer(by, asked["model"], values)
        taken.append(1000 * (time.perf_counter() - start))
    return taken, logits


def together(asked, values):
    idle = deque(client(asked["address"], number) for number in range(asked["threads"]))

    def one(_):
        by = idle.popleft()
        logits = infer(by, asked["model"], values)
        idle.append(by)
        return logits

    start = time.perf_counter()
    logits = list(pool(asked["threads"]).map(one, range(asked["calls"])))[-1]
    return [1000 * (time.perf_counter() - start) / asked["calls"]], logits


def main():
    keep_big_buffers()
    for line in sys.stdin:
        asked = json.loads(line)
        values, cpu = features(tuple(asked["shape"])), time.process_time()
        taken, logits = (together if asked["threads"] > 1 else one_by_one)(asked, values)
        cpu_ms = 1000 * (time.process_time() - cpu) / asked["calls"]
        sys.stdout.write(json.dumps({"ms": taken, "cpu_ms": cpu_ms, "logits": logits.tolist()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

"""What the servers of the comparison share; it runs in their environments, so it needs no more than numpy."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

Compute = Callable[[np.ndarray], np.ndarray]
INPUT, OUTPUT = "features", "logits"


def end_with_parent():
    """Kills this process group as soon as standard input ends; whoever started us holds its other end."""

    def wait():
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def null(features):
    """Features ``(N, ...)`` to their first ten numbers ``(N, 10)``: nothing is computed, the rest is the way there."""
    return np.ascontiguousarray(features.reshape(len(features), -1)[:, :10])


def onnx(path):
    """A model in ONNX Runtime on one thread, set up as our engine sets it up."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda features: session.run([OUTPUT], {INPUT: features})[0]


def foreign_models(folder: Path) -> dict[str, tuple[tuple[int, ...], Compute]]:
    """By name the feature's shape and what computes it, of the models that need no torch."""
    return {
        "null2k": ((8, 8, 8), null),
        "null64k": ((64, 16, 16), null),
        "tail": ((64, 16, 16), onnx(folder / "tail.onnx")),
    }

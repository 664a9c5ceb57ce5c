import contextlib

import numpy as np
import pytest

from splitleak.attacker.rebuilders import Rebuilder
from splitleak.attacker.watch.watcher import Watcher
from splitleak.wire.files.captures import CaptureWriter, Record
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import MODEL_INFER, MODEL_STREAM_INFER
from splitleak.wire.protocol.pb import open_inference_pb2 as pb


def request(name, feature):
    return codec.request("toy", codec.encode(feature, "fp32"), request_id=name).SerializeToString()


def answer(name, scores, *, output="logits", refusal=""):
    said = pb.ModelInferResponse(id=name)
    if not refusal:
        raw = np.asarray(scores, np.float32)
        said.outputs.add(name=output, datatype="FP32", shape=[1, len(raw)])
        said.raw_output_contents.append(raw.tobytes())
    return pb.ModelStreamInferResponse(infer_response=said, error_message=refusal).SerializeToString()


class Wire:
    """A tap that writes what a test says."""

    def __init__(self, writer):
        self.writer, self.path = writer, writer.path
        self.draw = np.random.default_rng(0)

    def ask(self, name, feature=None, *, call=1):
        feature = self.draw.normal(size=(1, 4, 8, 8)).astype(np.float32) if feature is None else feature
        self.writer.write(MODEL_STREAM_INFER, call, "request", request(name, feature))
        return feature

    def say(self, name, scores=(0, 4, 0), *, call=1, output="logits", refusal=""):
        said = answer(name, scores, output=output, refusal=refusal)
        self.writer.write(MODEL_STREAM_INFER, call, "response", said)

    def raw(self, message):
        self.writer.write(MODEL_INFER, 9, "request", message)


@pytest.fixture
def packed():
    """``packed(name, call)``: the bytes of a request of eight values and of its answer, as they stand in a capture."""

    def of(name, call):
        asked = Record(1000, call, "request", MODEL_STREAM_INFER, request(name, np.ones((1, 2, 2, 2), np.float32)))
        return asked.packed() + Record(2000, call, "response", MODEL_STREAM_INFER, answer(name, (0, 4, 0))).packed()

    return of


@pytest.fixture
def wire(tmp_path):
    with CaptureWriter(tmp_path / "tap.capture") as writer:
        yield Wire(writer)


def brightness(features):
    """(N, 4, 8, 8) to pictures (N, 1, 8, 8)."""
    return features.mean(1, keepdim=True).sigmoid()


@pytest.fixture
def watched(wire):
    """``watched(...)``: a watcher of the wire, whose steps the test takes, and whom somebody watches."""
    with contextlib.ExitStack() as stack:

        def watch(**options):
            given = {"rebuilder": Rebuilder("toy", (4, 8, 8), brightness), "classes": ("cat", "dog", "ship"), **options}
            watcher = Watcher(wire.path, **given)
            stack.enter_context(watcher._follower)
            stack.enter_context(watcher.board.viewer())
            return watcher

        yield watch


@pytest.fixture
def shown():
    """``shown(board)``: all that a new browser gets."""

    def of(board):
        from splitleak.attacker.watch.board import Cursor

        return board.since(Cursor(), board.kept)[0]

    return of

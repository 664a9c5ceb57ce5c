"""The client finds out what a classifier takes and gives, reads its answers however they come, and counts."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from splitleak.errors import WireError
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.client.classifier import ClassifierClient
from splitleak.wire.protocol.codec import request_tensor
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

DTYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2"}
IMAGES = np.random.default_rng(0).random((7, 1, 2, 2), np.float32)


def scores_of(images):
    flat = np.asarray(images, np.float64).reshape(len(images), -1)[:, :3] + 0.01
    return flat / flat.sum(1, keepdims=True)


class Server(GRPCInferenceServiceServicer):
    """A classifier of three classes that announces ``inputs`` and ``outputs``, each ``(name, datatype, shape)``."""

    def __init__(self, **changes):
        self.inputs = [("picture", "FP32", (-1, 1, 2, 2))]
        self.outputs = [("answer", "FP32", (-1, 3))]
        self.properties, self.extensions, self.typed, self.limit = {}, ["model:toy"], False, 10**6
        self.answers = {"answer": scores_of}
        self.refuse = grpc.StatusCode.INVALID_ARGUMENT
        for name, value in changes.items():
            setattr(self, name, value)
        self.sizes, self.ids, self.names = [], [], set()

    def ServerMetadata(self, request, context):
        return pb.ServerMetadataResponse(name="other", extensions=self.extensions)

    def ModelMetadata(self, request, context):
        if request.name != "toy":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.name}")
        told = [[{"name": n, "datatype": d, "shape": s} for n, d, s in each] for each in (self.inputs, self.outputs)]
        return pb.ModelMetadataResponse(name="toy", inputs=told[0], outputs=told[1], properties=self.properties)

    def ModelInfer(self, request, context):
        tensor = request_tensor(request)
        images = np.frombuffer(tensor.raw, DTYPES[tensor.datatype]).reshape(tensor.shape)
        self.sizes.append(len(images))
        self.ids.append(request.id)
        self.names.add((request.inputs[0].name, tensor.datatype))
        if len(images) > self.limit:
            context.abort(self.refuse, f"at most {self.limit}")
        response = pb.ModelInferResponse(model_name="toy", id=request.id)
        datatypes = {name: datatype for name, datatype, _ in self.outputs}
        for name, answer in self.answers.items():
            datatype = datatypes.get(name, "FP32")
            values = np.asarray(answer(images), DTYPES[datatype])
            entry = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
            if self.typed:
                getattr(entry.contents, f"{datatype.lower()}_contents").extend(values.ravel().tolist())
            else:
                response.raw_output_contents.append(values.tobytes())
        return response


@contextlib.contextmanager
def serving(server):
    running = grpc.server(ThreadPoolExecutor(2))
    add_GRPCInferenceServiceServicer_to_server(server, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        running.stop(0).wait()


@contextlib.contextmanager
def client_of(server=None, model=None, **options):
    with serving(server or Server()) as address, ClassifierClient(address, model, **options) as client:
        yield client


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_scores_are_read_raw_and_typed_and_in_both_widths(typed, datatype):
    server = Server(typed=typed, outputs=[("answer", datatype, (-1, 3))])
    with client_of(server) as client:
        found = client.predict(IMAGES)
    np.testing.assert_allclose(found, scores_of(IMAGES), atol=1e-7)
    assert found.dtype == np.float32
    assert server.names == {("picture", "FP32")}


@pytest.mark.parametrize(("datatype", "tolerance"), [("FP64", 1e-7), ("FP16", 1e-3)])
def test_images_are_sent_in_the_width_that_is_announced(datatype, tolerance):
    server = Server(inputs=[("x", datatype, (-1, 1, 2, 2))])
    with client_of(server) as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES), atol=tolerance)
    assert server.names == {("x", datatype)}


@pytest.mark.parametrize(
    ("limit", "sizes"), [(None, [7]), ("3", [3, 3, 1]), ("64", [7]), ("²", [7]), ("9" * 5000, [7])]
)
def test_batches_are_as_large_as_the_server_takes(limit, sizes):
    server = Server(properties={"max_batch_size": limit} if limit else {})
    with client_of(server, prefix="mine-") as client:
        client.predict(IMAGES)
        client.predict(IMAGES[:1])
    assert server.sizes == [*sizes, 1]
    assert server.ids == [f"mine-{number}" for number in range(len(server.sizes))]
    assert (client.images, client.requests) == (8, len(server.sizes))


@pytest.mark.parametrize("refuse", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
def test_an_unannounced_limit_is_found_and_what_was_refused_is_not_counted(refuse):
    server = Server(limit=2, refuse=refuse)
    with client_of(server) as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES), atol=1e-7)
    assert server.sizes == [7, 4, 2, 2, 2, 1]
    assert (client.images, client.requests) == (7, 4)


def test_a_server_that_refuses_a_single_image_is_believed():
    with client_of(Server(limit=0)) as client, pytest.raises(ValueError, match="INVALID_ARGUMENT: at most 0"):
        client.predict(IMAGES)


def test_an_announced_limit_that_is_none_is_not_worked_around():
    server = Server(limit=2, properties={"max_batch_size": "5"})
    with client_of(server) as client, pytest.raises(ValueError, match="at most 2"):
        client.predict(IMAGES)
    assert server.sizes == [5]


def test_messages_keep_to_their_largest_size_though_the_announced_batch_is_larger():
    server, images = Server(inputs=[("picture", "FP32", (-1, 1, 16, 16))], properties={"max_batch_size": "64"}), 40
    pictures = np.random.default_rng(0).random((images, 1, 16, 16), np.float32)
    with client_of(server, channel=ChannelConfig(max_message_bytes=12 * 1024)) as client:
        assert len(client.predict(pictures)) == images
    assert server.sizes == [10] * 4


def test_logits_become_probabilities_by_name_or_by_order():
    def logits(images):
        return np.log(scores_of(images)) + 100

    by_name = Server(outputs=[("Logits:0", "FP32", (-1, 3))], answers={"Logits:0": logits})
    with client_of(by_name) as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES), atol=1e-4)
    told = {"answer": logits}
    with client_of(Server(answers=told), scores="logits") as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES), atol=1e-4)
    with client_of(Server(answers=told)) as client, pytest.raises(WireError, match="logits, perhaps"):
        client.predict(IMAGES)


SEVERAL = {
    "label": ("INT64", (-1, 1)),
    "embedding": ("FP32", (-1, 5)),
    "probabilities": ("FP32", (-1, 3)),
    "logits": ("FP32", (-1, 3)),
}


def with_outputs(*names):
    answers = {name: (lambda images, name=name: scores_of(images) / (1 + len(name))) for name in names}
    return Server(outputs=[(name, *SEVERAL.get(name, ("FP32", (-1, 3)))) for name in names], answers=answers)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("embedding", "logits", "probabilities"), "probabilities"),
        (("embedding", "class_scores"), "class_scores"),
        (("a", "b"), None),
    ],
)
def test_of_several_outputs_a_telling_name_is_taken(names, chosen):
    server = with_outputs(*names)
    if chosen is None:
        with pytest.raises(LookupError, match="expected one output of scores"):
            client_of(server).__enter__()
        return
    with client_of(server, scores="probabilities") as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES) / (1 + len(chosen)), atol=1e-7)


def test_an_output_that_is_named_is_taken_or_missed_by_name():
    with client_of(with_outputs("a", "b"), output="b") as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES) / 2, atol=1e-7)
    with pytest.raises(LookupError, match=r"expected output 'c', got \['a', 'b'\]"):
        client_of(with_outputs("a", "b"), output="c").__enter__()


def test_a_label_beside_the_scores_is_no_choice():
    server = Server(outputs=[("label", "INT64", (-1, 1)), ("answer", "FP32", (-1, 3))])
    with client_of(server) as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES), atol=1e-7)


def test_a_server_that_announces_nothing_is_taken_on_trust():
    server = Server(inputs=[], outputs=[])
    with client_of(server) as client:
        np.testing.assert_allclose(client.predict(IMAGES), scores_of(IMAGES), atol=1e-7)
    assert server.names == {("images", "FP32")}


@pytest.mark.parametrize(
    ("announced", "said"),
    [
        (("UINT8", (-1, 1, 2, 2)), "of images in .0, 1. as FP32, FP16, FP64, got UINT8"),
        (("FP32", (-1, 32, 32, 3)), r"expected input 'x' of images \(N, C, H, W\).*\(-1, 32, 32, 3\), channels last"),
        (("FP32", (-1, 784)), r"images \(N, C, H, W\), got shape \(-1, 784\)"),
        (("FP32", (-1, 28, 28)), r"got shape \(-1, 28, 28\)"),
    ],
)
def test_a_model_of_other_things_is_refused_in_words(announced, said):
    with pytest.raises(ValueError, match=said):
        client_of(Server(inputs=[("x", *announced)])).__enter__()


def test_two_inputs_are_refused():
    inputs = [("x", "FP32", (-1, 1, 2, 2)), ("mask", "FP32", (-1, 1))]
    with pytest.raises(LookupError, match=r"expected one input, got \['x', 'mask'\]"):
        client_of(Server(inputs=inputs)).__enter__()


@pytest.mark.parametrize("shape", [(-1, -1, -1, -1), (1, 2, 2), (-1, 1, 2, 2), (2, 1, 2, 2)])
def test_shapes_with_any_size_and_without_a_batch_axis_fit(shape):
    server = Server(inputs=[("x", "FP32", shape)])
    with client_of(server) as client:
        client.predict(IMAGES[:4])
    assert server.sizes == ([2, 2] if shape[0] == 2 else [4])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (
            np.zeros((1, 1, 3, 2), np.float32),
            r"expected images of shape \(N, 1, 2, 2\).*, got \(1, 1, 3, 2\)",
        ),
        (np.zeros((1, 1, 2, 2)), "expected float32 images"),
        (np.zeros((0, 1, 2, 2), np.float32), "with N at least 1, got"),
        (np.full((1, 1, 2, 2), 255, np.float32), r"values in \[0, 1\], got values from 255"),
        (np.full((1, 1, 2, 2), np.nan, np.float32), "got values from nan"),
    ],
)
def test_other_images_are_refused_before_they_are_sent(images, said):
    server = Server()
    with client_of(server) as client, pytest.raises(ValueError, match=said):
        client.predict(images)
    assert server.sizes == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda images: np.full((len(images), 3), np.nan), "not finite"),
        (lambda images: scores_of(images)[:-1], "expected scores"),
        (lambda images: scores_of(images)[:, :1], "expected scores"),
        (lambda images: scores_of(images)[None], "expected scores"),
    ],
)
def test_what_are_no_scores_is_an_error(answer, said):
    with client_of(Server(answers={"answer": answer})) as client, pytest.raises(WireError, match=said):
        client.predict(IMAGES)


def test_an_answer_of_the_wrong_length_is_an_error():
    server = Server(outputs=[("answer", "FP64", (-1, 3))])
    infer = server.ModelInfer

    def cut(request, context):
        response = infer(request, context)
        response.raw_output_contents[0] = response.raw_output_contents[0][:-1]
        return response

    server.ModelInfer = cut
    with client_of(server) as client, pytest.raises(WireError, match=r"expected FP64 of shape \[7, 3\]"):
        client.predict(IMAGES)


def test_a_model_is_named_where_the_server_does_not_list_one():
    with client_of(Server(extensions=["health"]), "toy") as client:
        assert client.model == "toy"
    with pytest.raises(ValueError, match=r"expected the name of a model.*does not list"):
        client_of(Server(extensions=["health"])).__enter__()
    with pytest.raises(ValueError, match=r"it lists \['toy', 'other'\]"):
        client_of(Server(extensions=["model:toy", "model:other"])).__enter__()
    with pytest.raises(LookupError, match="NOT_FOUND: no other"):
        client_of(Server(), "other").__enter__()


def test_a_server_that_is_not_there_is_a_connection_error():
    client = ClassifierClient("127.0.0.1:1", channel=ChannelConfig(connect_timeout_s=0.2))
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        client.__enter__()


def test_a_reply_says_what_one_request_cost():
    with client_of() as client:
        reply = client.ask(IMAGES[:2], "name")
    assert reply.request_id == "name"
    assert reply.sent_bytes > 2 * 16
    assert 0 <= reply.network_us <= reply.total_us
    assert (reply.queue_us, reply.compute_us) == (0, 0)


def test_another_kind_of_scores_does_not_exist():
    with pytest.raises(ValueError, match="expected a reading of scores of auto, probabilities"):
        ClassifierClient("a:1", scores="odds")

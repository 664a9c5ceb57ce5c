"""The protocol over HTTP: asked in JSON or in bytes, answered in either, and refused in one line."""

import contextlib
import json
import queue
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

from splitleak.errors import WireError
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.client.classifier import ClassifierClient
from splitleak.wire.client.rest import HttpStub
from splitleak.wire.security import TlsClientConfig, make_token

IMAGES = np.random.default_rng(0).random((5, 1, 2, 2), np.float32)
QUICK = ChannelConfig(connect_timeout_s=0.3, timeout_s=2, reconnect_min_ms=1, reconnect_max_ms=20)
DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


def scores_of(images):
    flat = np.asarray(images, np.float64).reshape(len(images), -1)[:, :3] + 0.01
    return flat / flat.sum(1, keepdims=True)


class Model:
    """A classifier behind HTTP; ``answers`` are given in turn instead of its own, as (status, headers, body)."""

    def __init__(self, **changes):
        self.datatype, self.output, self.binary, self.nested, self.listed = "FP32", "FP32", False, False, ["model:toy"]
        self.metadata = {"name": "toy", "platform": "x"}
        self.answers, self.seen, self.token = {}, [], None
        self.idle_s, self.closed = None, queue.Queue()  # until it closes a connection, and a mark for each that it has
        for name, value in changes.items():
            setattr(self, name, value)

    def answer(self, method, path, headers, body):
        self.seen.append((method, path, dict(headers)))
        if self.answers.get((method, path)):
            return self.answers[method, path].pop(0)
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            return told(401, {"error": "no token"})
        if path == "/v2":
            return told(200, {"name": "s", "extensions": self.listed + ["binary_tensor_data"] * self.binary})
        if path == "/v2/models/toy":
            inputs = [{"name": "picture", "datatype": self.datatype, "shape": [-1, 1, 2, 2]}]
            outputs = [{"name": "answer", "datatype": self.output, "shape": [-1, 3]}]
            return told(200, {"inputs": inputs, "outputs": outputs, **self.metadata})
        if path == "/v2/models/toy/infer":
            return self.infer(headers, body)
        return told(404, {"error": f"no {path}"})

    def infer(self, headers, body):
        length = int(headers.get("Inference-Header-Content-Length", len(body)))
        request = json.loads(body[:length])
        (entry,) = request["inputs"]
        dtype = DTYPES[entry["datatype"]]
        values = np.array(entry["data"], dtype) if "data" in entry else np.frombuffer(body[length:], dtype)
        scores = scores_of(values.reshape(entry["shape"])).astype(DTYPES[self.output])
        output = {"name": "answer", "datatype": self.output, "shape": list(scores.shape)}
        about = {"model_name": "toy", "id": request["id"], "parameters": {"compute_us": 7}}
        label = {"name": "label", "datatype": "BYTES", "shape": [len(scores)], "data": ["x"] * len(scores)}
        if request.get("parameters", {}).get("binary_data_output"):
            output["parameters"] = {"binary_data_size": scores.nbytes}
            head = json.dumps({**about, "outputs": [label, output]}).encode()
            kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
            return 200, kind, head + scores.tobytes()
        output["data"] = scores.tolist() if self.nested else scores.ravel().tolist()
        return told(200, {**about, "outputs": [label, output]})


def told(status, document):
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


@contextlib.contextmanager
def serving(model, certificates=None):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = model.idle_s

        def handle_one(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = model.answer(self.command, self.path, self.headers, body)
            if answer is None:  # hangs up
                self.close_connection = True
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_CONNECT = handle_one

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def shutdown_request(self, request):
            super().shutdown_request(request)
            model.closed.put(None)

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        server.socket, scheme = context.wrap_socket(server.socket, server_side=True), "https"
        server.handle_error = lambda *_: None  # a client that does not trust it
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def client_of(model, channel=QUICK, name=None, path="", **options):
    with serving(model) as address, ClassifierClient(address + path, name, channel=channel, **options) as client:
        yield client


@pytest.mark.parametrize("output", ["FP32", "FP64", "FP16"])
@pytest.mark.parametrize(
    ("datatype", "binary"), [("FP32", False), ("FP32", True), ("FP64", False), ("FP64", True), ("FP16", True)]
)
def test_scores_are_asked_and_answered_in_json_and_in_bytes(datatype, output, binary):
    model = Model(datatype=datatype, output=output, binary=binary, nested=True)
    with client_of(model) as client:
        assert np.allclose(client.predict(IMAGES), scores_of(IMAGES), atol=2e-3)
        answer = client.ask(IMAGES, "x")
        assert answer.compute_us == 7
        assert answer.sent_bytes == int(model.seen[-1][2]["Content-Length"])
        assert client.model == "toy"


def test_the_time_that_json_takes_is_the_clients_and_not_the_networks(monkeypatch):
    packed = HttpStub._request
    monkeypatch.setattr(HttpStub, "_request", lambda self, request: (time.sleep(0.2), packed(self, request))[1])
    with client_of(Model()) as client:
        started = time.monotonic()
        answer = client.ask(IMAGES, "x")
        took_us = (time.monotonic() - started) * 1e6
    assert answer.serialise_us >= 200_000
    assert answer.serialise_us + answer.round_trip_us <= took_us


def test_half_precision_without_bytes_is_refused_in_one_line():
    with client_of(Model(datatype="FP16")) as client, pytest.raises(ValueError, match="binary_tensor_data"):
        client.predict(IMAGES)


def test_metadata_tell_digest_and_batch_size_as_over_grpc():
    model = Model(metadata={"properties": {"digest": "abc", "max_batch_size": "2"}})
    with client_of(model) as client:
        client.predict(IMAGES)
        assert (client.digest, client.requests) == ("abc", 3)


def test_one_connection_carries_all_requests_and_a_path_may_come_first():
    model = Model()
    model.answers = {
        ("GET", "/serving/v2"): [told(404, {})],
        ("GET", "/serving/v2/models/a%2Fb"): [told(200, {"inputs": [], "outputs": []})],
    }
    with client_of(model, name="a/b", path="/serving/"), serving(model):
        assert [path for _, path, _ in model.seen] == ["/serving/v2", "/serving/v2/models/a%2Fb"]


HEAD = {"model_name": "toy", "id": ""}
OUTPUT = {"name": "answer", "datatype": "FP32", "shape": [5, 3]}
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, {"Content-Type": "text/html"}, b"<p>hello"), "got text/html: b'<p>hello'"),
        ((200, {"Content-Type": "application/json"}, b"{"), "expected JSON, but"),
        ((200, {"Content-Type": "application/json"}, b"[" * 10**5), "expected JSON, but"),
        (told(200, []), "a JSON object, got a list"),
        (told(200, {**HEAD, "outputs": {}}), "a list as outputs"),
        (told(200, {**HEAD, "outputs": ["x"]}), "name, datatype and shape, got 'x'"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "shape": [5, -3], "data": []}]}), "name, datatype and shape"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "shape": [True, 3], "data": []}]}), "name, datatype and shape"),
        (told(200, {**HEAD, "outputs": []}), "expected output 'answer', got"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "name": "other", "data": [0.1] * 15}]}), "expected output 'answer'"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "datatype": "INT64", "data": [1] * 15}]}), "INT64"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "data": [0.1] * 14}]}), "as numbers, got 14 values"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "data": ["0.1"] * 15}]}), "as numbers"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "data": [True] * 15}]}), "as numbers"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "data": [[0.1], [0.1, 0.2]]}]}), "different lengths"),
        (told(200, {**HEAD, "outputs": [OUTPUT]}), "as numbers"),
        (told(200, {**HEAD, "outputs": [{**OUTPUT, "parameters": "none"}]}), "as numbers"),
        ((200, {**OCTETS, "Inference-Header-Content-Length": "99"}, b"{}"), "of at most 2, got '99'"),
        ((200, {**OCTETS, "Inference-Header-Content-Length": "-1"}, b"{}"), "got '-1'"),
        ((200, OCTETS, b"{}"), "got application/octet-stream"),
        (
            told(200, {**HEAD, "outputs": [{**OUTPUT, "parameters": {"binary_data_size": 60}}]}),
            "in 60 bytes, got 0 behind the JSON",
        ),
    ],
)
def test_an_answer_that_is_malformed_is_one_line(answer, said):
    model = Model(answers={("POST", "/v2/models/toy/infer"): [answer]})
    with client_of(model) as client, pytest.raises(WireError) as error:
        client.predict(IMAGES)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (told(404, {"error": "no such model"}), LookupError, "NOT_FOUND: 404 Not Found: no such model"),
        (told(401, {"detail": "who?"}), PermissionError, "401 Unauthorized: who?"),
        (told(403, {}), PermissionError, "403"),
        (told(400, {"error": "bad\nshape"}), ValueError, "400 Bad Request: bad shape"),
        ((500, {}, b"<h1>oops" * 10**5), RuntimeError, "500 Internal Server Error: <h1>oops"),
        (told(504, {}), TimeoutError, "504"),
        (told(599, {}), RuntimeError, "599"),
        ((302, {"Location": "http://elsewhere/"}, b""), RuntimeError, "to http://elsewhere/, which is not followed"),
    ],
)
def test_a_refusal_is_the_error_that_grpc_would_give(answer, kind, said):
    model = Model(answers={("POST", "/v2/models/toy/infer"): [answer]})
    with client_of(model) as client:
        with pytest.raises(kind) as error:
            client.predict(IMAGES[:1])
        assert said in str(error.value)
        assert "\n" not in str(error.value)
        client.predict(IMAGES)  # the connection is usable, or made anew


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(LookupError, match="metadata of model 'other'"), client_of(Model(), name="other"):
        pass


def test_an_unavailable_server_and_a_connection_that_breaks_are_tried_again():
    unavailable = told(503, {"error": "loading"})
    model = Model(answers={("POST", "/v2/models/toy/infer"): [unavailable, None, None]})
    with client_of(model) as client:
        assert len(client.predict(IMAGES)) == 5
        model.answers = {("POST", "/v2/models/toy/infer"): [unavailable] * 4}
        with pytest.raises(ConnectionError, match="503 Service Unavailable: loading"):
            client.predict(IMAGES)
        assert not model.answers["POST", "/v2/models/toy/infer"]


def test_a_request_above_the_servers_rate_is_sent_again_when_it_says():
    model = Model(answers={("POST", "/v2/models/toy/infer"): [(429, {"Retry-After": "0"}, b"too many")] * 3})
    with client_of(model) as client:
        assert len(client.predict(IMAGES)) == 5
        model.answers = {("POST", "/v2/models/toy/infer"): [(429, {"Retry-After": "60"}, b"too many")]}
        with pytest.raises(queue.Full, match="429 Too Many Requests: too many"):
            client.ask(IMAGES[:1], "x")


def test_a_connection_that_the_server_closed_while_it_was_idle_costs_no_attempt():
    model = Model(idle_s=0.05)
    with client_of(model, QUICK.model_copy(update={"attempts": 1})) as client:
        for _ in range(3):
            model.closed.get(timeout=5)
            assert len(client.predict(IMAGES)) == 5


def test_an_answer_that_is_cut_short_is_tried_again_and_one_that_is_too_long_is_not():
    short = (200, {"Content-Type": "application/json", "Content-Length": "9", "Connection": "close"}, b"{")
    model = Model(answers={("POST", "/v2/models/toy/infer"): [short]})
    with client_of(model, QUICK.model_copy(update={"max_message_bytes": 1000})) as client:
        assert len(client.predict(IMAGES)) == 5
        model.answers = {("POST", "/v2/models/toy/infer"): [told(200, {"x": "y" * 2000})]}
        with pytest.raises(WireError, match="at most 1000 bytes, got more"):
            client.predict(IMAGES)
        with pytest.raises(ValueError, match="at most 1000 bytes, got"):
            client.ask(np.ones((100, 1, 2, 2), np.float32), "x")


def test_a_server_that_does_not_answer_in_time_is_a_timeout(monkeypatch):
    waiting = threading.Event()
    model = Model()
    monkeypatch.setattr(model, "infer", lambda *_: waiting.wait(5) and None)
    with client_of(model, QUICK.model_copy(update={"timeout_s": 0.1})) as client:
        with pytest.raises(TimeoutError, match="no answer in time"):
            client.predict(IMAGES)
        waiting.set()


def entered(address, channel=QUICK):
    with ClassifierClient(address, "toy", channel=channel):
        pass


def test_nobody_there_is_said_after_the_wait():
    with pytest.raises(ConnectionError, match=r"within 0.3 s, got no answer, but a refusal: nothing listens"):
        entered("http://127.0.0.1:9")


def test_a_name_that_is_nobodys_is_said_at_once():
    with pytest.raises(ConnectionError, match=r"no host of the name 'nowhere\.invalid'"):
        entered("http://nowhere.invalid:9")


def test_a_grpc_server_is_told_from_one_of_http():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ConnectionError, match=r"no HTTP server \(for gRPC"):
            entered(f"http://127.0.0.1:{port}")
    finally:
        server.stop(0).wait()


def test_tls_and_the_token_are_those_of_the_channel(certificates, tmp_path):
    make_token("camera", tmp_path / "tokens.json", tmp_path / "token")
    model = Model(token=(tmp_path / "token").read_text().strip())
    tls = TlsClientConfig(ca=certificates / "ca.pem", server_name="localhost")
    trusting = QUICK.model_copy(update={"tls": tls, "token_file": tmp_path / "token"})
    with serving(model, certificates) as address:
        entered(address, trusting)
        with pytest.raises(PermissionError, match="401 Unauthorized: no token"):
            entered(address, trusting.model_copy(update={"token_file": None}))
        with pytest.raises(ConnectionError, match="a certificate that is refused"):
            entered(address)
        with pytest.raises(ValueError, match="expected https://"):
            entered(address.replace("https", "http"), trusting)
    with serving(model) as address, pytest.raises(ConnectionError, match="a server without TLS"):
        entered(address.replace("http", "https"), trusting)
    with pytest.raises(ValueError, match="a token would travel in clear"):
        entered("http://far.example", QUICK.model_copy(update={"token_file": tmp_path / "token"}))


def test_a_proxy_is_taken_elsewhere_and_never_on_loopback(monkeypatch):
    proxy, model = Model(), Model()
    prefix = "http://far.example:80"
    proxy.answers = {
        ("GET", f"{prefix}/v2"): [told(200, {})],
        ("GET", f"{prefix}/v2/models/toy"): [told(200, {})],
    }
    with serving(proxy) as address, serving(model) as near:
        monkeypatch.setenv("http_proxy", address.replace("//", "//user:secret@"))
        entered("http://far.example")
        entered(near)
        assert [path for _, path, _ in proxy.seen] == [f"{prefix}/v2", f"{prefix}/v2/models/toy"]
        assert proxy.seen[0][2]["Proxy-Authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert len(model.seen) == 2
        monkeypatch.setenv("https_proxy", address)
        with pytest.raises(ConnectionError):  # it is asked to CONNECT, and refuses
            entered("https://far.example")
        assert proxy.seen[-1][:2] == ("CONNECT", "far.example:443")

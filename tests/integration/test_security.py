"""The chain with TLS, certificates and tokens: who is let in, what each kind of tap sees, and where no secret is.

Cloud, taps and edge are real processes. The edge trusts two authorities, the second of which is a company's own: the
tap that shows its certificate is the company's proxy, and reads what it carries. The other tap is anybody on the way.
"""

import base64
import contextlib
import hashlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from splitleak.attacker.blind_tap import sightings
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign.processes import service
from splitleak.seeding import resolve_device
from splitleak.wire.address import parse_address
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.client.classifier import ClassifierClient
from splitleak.wire.files import captures
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import method_path
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from splitleak.wire.security import TlsClientConfig, TlsServerConfig, make_token, read_beside, read_token
from splitleak.wire.server.server import ServerConfig

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
ANYWHERE = "127.0.0.1:0"
IMAGES = 40


@dataclass
class Chain:
    """What one run left behind: every process' output, its exit status, and all files it wrote."""

    folder: Path
    secrets: dict[str, bytes]
    exit_codes: dict[str, int]
    refusal: str


def settings(path, **document):
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def chain(tmp_path_factory, small_splits, certificates):
    folder = tmp_path_factory.mktemp("secure")
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
    }
    target = train(TargetConfig.parse(document, source="test"), small_splits, device=resolve_device("cpu"))
    save(folder / "target", "secured", target)
    images, run, keys = folder / "images.npz", folder / "run", folder / "keys"
    small_splits.victims.save(images)
    for each in (run, keys):
        each.mkdir()
    make_token("camera", keys / "tokens.json", keys / "camera.token")

    def pair(name):
        return {"certificate": str(certificates / f"{name}.pem"), "key": str(certificates / f"{name}.key")}

    both = keys / "trusted.pem"
    both.write_bytes(b"".join((certificates / f"{name}.pem").read_bytes() for name in ("ca", "other-ca")))
    of_cloud = settings(
        keys / "cloud.json",
        tls={**pair("server"), "client_ca": str(certificates / "ca.pem")},
        tokens_file="tokens.json",
    )
    of_edge = settings(keys / "edge.json", tls={"ca": "trusted.pem", **pair("camera")}, token_file="camera.token")
    of_proxy = settings(keys / "proxy.json", tls=pair("stranger"))
    to_cloud = settings(keys / "to_cloud.json", tls={"ca": str(certificates / "ca.pem"), **pair("camera")})

    with contextlib.ExitStack() as stack:

        def start(name, *arguments):
            given = ["--log-level", "debug", *map(str, arguments)]
            return stack.enter_context(service(given, run / f"{name}.log"))

        def listening(name, *arguments):
            found = start(name, *arguments, "--listen", ANYWHERE)
            return found.wait_for("listening", PATIENCE_S)["address"]

        address = listening(
            *("cloud", "cloud", folder / "target", "--server", of_cloud, "--threads", 1),
            *("--capture", run / "cloud.capture"),
        )
        blind = listening("blind", "tap", "--blind", "--upstream", address, "--capture", run / "sizes.jsonl")
        proxy = listening(
            *("proxy", "tap", "--upstream", address, "--capture", run / "proxy.capture"),
            *("--server", of_proxy, "--channel", to_cloud),
        )
        edge = ("edge", folder / "target", "--threads", 1, "--images", images, "--channel", of_edge)
        edges = {
            "by-blind": start("by-blind", *edge, "--cloud", blind, "--ledger", run / "blind.json"),
            "by-proxy": start("by-proxy", *edge, "--cloud", proxy, "--ledger", run / "proxy.json"),
        }
        refused = ClassifierClient(address, channel=ChannelConfig.parse(read_beside(to_cloud), source="test"))
        with pytest.raises(PermissionError) as caught, refused:
            pytest.fail("served without a token")
        exit_codes = {name: each.process.wait(PATIENCE_S) for name, each in edges.items()}
    words = {"token": read_token(keys / "camera.token").encode()}
    for name in ("server", "camera", "stranger"):
        words[name] = (certificates / f"{name}.key").read_bytes().splitlines()[1]
    return Chain(folder, words, exit_codes, str(caught.value))


def test_with_a_token_and_a_certificate_an_edge_is_served_through_either_tap(chain):
    assert (chain.exit_codes["by-blind"], chain.exit_codes["by-proxy"]) == (0, 0)
    for name in ("blind", "proxy"):
        assert len(Ledger.read(chain.folder / "run" / f"{name}.json").entries) == IMAGES


def test_without_a_token_a_client_with_a_certificate_is_told_why_it_is_not_served(chain):
    assert "UNAUTHENTICATED: expected a known client's token" in chain.refusal


def test_a_tap_that_the_edge_trusts_sees_every_feature(chain):
    requests = captures.inference_requests(captures.read(chain.folder / "run" / "proxy.capture"))
    captured = {name: hashlib.sha256(tensor.raw).hexdigest() for name, tensor in requests}
    sent = Ledger.read(chain.folder / "run" / "proxy.json").entries
    assert {entry.request_id: entry.payload_sha256 for entry in sent} == captured


def test_a_tap_that_nobody_trusts_sees_how_many_images_there_were(chain):
    up = sum(each.size for each in sightings(chain.folder / "run" / "sizes.jsonl") if each.direction == "request")
    each = Ledger.read(chain.folder / "run" / "blind.json").summary()["bytes_per_image"]
    assert IMAGES <= up / each < 1.15 * IMAGES


def test_no_secret_is_in_anything_that_was_written(chain):
    found = [path for path in (chain.folder / "run").rglob("*") if path.is_file()]
    assert {path.name for path in found} >= {"cloud.log", "proxy.log", "by-proxy.log", "proxy.capture", "proxy.json"}
    for path in found:
        content = path.read_bytes()
        for name, word in chain.secrets.items():
            for disguise in (word, base64.b64encode(word), word.hex().encode(), repr(word).encode()[2:-1]):
                assert disguise not in content, f"{name} in {path.name}"
            if name == "token":
                assert hashlib.sha256(word).hexdigest().encode() not in content


class Half:
    name, feature_shape, classes, properties = "half", (64,), 4, {}

    def predict(self, features):
        return features[:, :4]


@contextlib.contextmanager
def recorded(address):
    """A relay of one connection that keeps all bytes: what anybody on the way can have."""
    passed, sockets = [], []
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(PATIENCE_S)

        def carry():
            near, _ = listener.accept()
            far = socket.create_connection(parse_address(address))
            for each in (near, far):
                sockets.append(stack.enter_context(each))
            pool.submit(pump, near, far)
            pool.submit(pump, far, near)

        def pump(source, sink):
            with contextlib.suppress(OSError):
                while piece := source.recv(65536):
                    passed.append(piece)
                    sink.sendall(piece)
                sink.shutdown(socket.SHUT_WR)

        pool.submit(carry)
        yield f"127.0.0.1:{listener.getsockname()[1]}", passed
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("over_tls", [True, False])
def test_what_passes_a_tap_holds_the_feature_only_without_tls(certificates, tmp_path, over_tls):
    make_token("camera", tmp_path / "tokens.json", tmp_path / "camera.token")
    tls = TlsServerConfig(certificate=certificates / "server.pem", key=certificates / "server.key")
    server = ServerConfig(tls=tls if over_tls else None, tokens_file=tmp_path / "tokens.json")
    trust = TlsClientConfig(ca=certificates / "ca.pem") if over_tls else None
    channel = ChannelConfig(tls=trust, token_file=tmp_path / "camera.token")
    tensor = codec.encode(np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32), "fp32")
    with (
        cloud(CloudConfig(server=server), Half()) as port,
        recorded(f"127.0.0.1:{port}") as (address, passed),
        connect(address, channel) as opened,
    ):
        GRPCInferenceServiceStub(opened).ModelInfer(codec.request("half", tensor, request_id="1"), timeout=PATIENCE_S)
        seen = b"".join(passed)
    assert (tensor.raw in seen) is not over_tls
    assert (b"half" in seen) is not over_tls


def test_without_a_token_no_method_of_a_cloud_says_anything(tmp_path):
    make_token("camera", tmp_path / "tokens.json", tmp_path / "camera.token")
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = [method_path(method.name) for method in service.methods]
    methods += ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
    methods += ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    assert len(methods) > 10
    config = CloudConfig(server=ServerConfig(tokens_file=tmp_path / "tokens.json"))
    with cloud(config, Half()) as port, connect(f"127.0.0.1:{port}", ChannelConfig()) as channel:
        for method in methods:
            with pytest.raises(grpc.RpcError) as caught:
                list(channel.stream_stream(method)(iter([b""]), timeout=PATIENCE_S))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, method

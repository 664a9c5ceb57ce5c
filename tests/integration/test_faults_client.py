"""The two faults of the network that a stream of images must survive, in short; the long forms are the bench's own."""

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from splitleak.attacker.queries import victims
from splitleak.attacker.tap import TapConfig, tap
from splitleak.cloud.batching import BatchingConfig, ComputeWorker
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.files import captures
from splitleak.wire.link.link import LinkConfig, link
from splitleak.wire.link.relay import LinkDirection
from splitleak.wire.security import TlsClientConfig, TlsServerConfig, make_token
from splitleak.wire.server.model import ServedModel
from splitleak.wire.server.server import ServerConfig, serve
from splitleak.wire.server.servicer import OpenInferenceServicer

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


class Pixels:
    """An encoder that sends the image itself."""

    input_shape = feature_shape = (1, 4, 4)

    def encode(self, images):
        return images

    def images(self, count):
        return ((str(index), np.full((1, 1, 4, 4), index / count, np.float32)) for index in range(count))


def outages(*arguments):
    """What `tests.bench.outages`, with real processes and a real link, found."""
    command = [sys.executable, "-m", "tests.bench.outages", *map(str, arguments)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.mark.slow
def test_a_cloud_killed_and_restarted_costs_no_image_and_answers_none_twice():
    found = outages("kills", "--kills", 5, "--images", 500)
    assert found["answered_once_in_order"]
    assert found["encoded_once"]
    assert found["right"]
    assert found["outages"] >= 5
    assert found["sent_again"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refused", "blackholed"])
def test_after_the_link_was_cut_answers_come_within_a_second_and_a_half(how):
    found = outages("cut", "--seconds", 1, "--how", how)
    assert found["answered_once_in_order"]
    assert found["right"]
    assert found["first_answer_s"] < 1.5


def flat(features):
    return features.reshape(len(features), -1)


@contextlib.contextmanager
def distant_pixels(server=None, *, answer=flat):
    """A cloud that answers with the pixels it is sent, one image at a time, behind a link; yields the link."""
    with ComputeWorker(answer, BatchingConfig(max_batch_size=1)) as worker:
        model = ServedModel("pixels", "numpy", "features", (1, 4, 4), "logits", (16,), 64, worker.submit)
        servicer = OpenInferenceServicer([model], server_name="test")
        with (
            serve(servicer.add_to, server or ServerConfig(), drain=servicer.drain) as port,
            link(LinkConfig(up=LinkDirection(delay_ms=5)), f"127.0.0.1:{port}") as way,
        ):
            yield way


def stream_over(way, config, count, *, before=lambda: None, after=lambda: None):
    """The answers to ``count`` images, after half of which the link is cut for a moment; calls `before` and `after`."""
    answers, encoder = [], Pixels()
    with EdgeClient(encoder, config) as client:
        for answer in client.stream(encoder.images(count)):
            answers.append(answer)
            if len(answers) == count // 2:
                before()
                way.cut("refused")
                after()
                threading.Timer(0.2, way.restore).start()
    assert client.outages >= 1
    assert [each.request_id for each in answers] == [str(index) for index in range(count)]
    assert [each.output[0, 0] for each in answers] == pytest.approx([index / count for index in range(count)])


@pytest.mark.parametrize("streams", [True, False])
def test_over_tls_and_with_a_token_a_cut_link_costs_no_image_either(tmp_path, certificates, streams):
    make_token("camera", tmp_path / "tokens.json", tmp_path / "camera.token")
    shown = TlsServerConfig(certificate=certificates / "server.pem", key=certificates / "server.key")
    channel = ChannelConfig(tls=TlsClientConfig(ca=certificates / "ca.pem"), token_file=tmp_path / "camera.token")
    with distant_pixels(ServerConfig(tls=shown, tokens_file=tmp_path / "tokens.json")) as way:
        stream_over(way, EdgeConfig(cloud=way.address, model="pixels", channel=channel, streams=streams), 60)


@pytest.mark.slow
def test_who_taps_a_broken_stream_sees_some_requests_twice_and_counts_each_victim_once(tmp_path):
    capture, came, cut = tmp_path / "wire.capture", threading.Event(), threading.Event()

    def held_until_the_cut(features):
        if features.max() >= 0.5:
            came.set()
            assert cut.wait(PATIENCE_S)
        return flat(features)

    with (
        distant_pixels(answer=held_until_the_cut) as way,
        tap(TapConfig(upstream=way.address, capture=capture)) as port,
    ):
        config = EdgeConfig(cloud=f"127.0.0.1:{port}", model="pixels")
        stream_over(way, config, 60, before=lambda: came.wait(PATIENCE_S), after=cut.set)
    ids, features = victims(capture)
    assert ids == tuple(str(index) for index in range(60))
    assert features[:, 0, 0, 0].tolist() == pytest.approx([index / 60 for index in range(60)])
    assert len(list(captures.inference_requests(captures.read(capture)))) > 60

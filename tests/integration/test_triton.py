"""Our edge speaks to a real Triton as to our own cloud: the same logits, over the same kind of stream.

Set SPLITLEAK_TRITON to a virtual environment with nvidia-pytriton and onnxruntime (see `triton_server.py`).
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from splitleak.cloud.service import CloudConfig, cloud
from splitleak.defenses.artifact import load_cloud, load_edge, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.models.triton import write_triton_model
from splitleak.seeding import resolve_device
from splitleak.wire.client.channel import ChannelConfig

ENVIRONMENT = os.environ.get("SPLITLEAK_TRITON")
SERVER = Path(__file__).with_name("triton_server.py")
CPU = resolve_device("cpu")
PATIENCE_S = 90

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ENVIRONMENT, reason="SPLITLEAK_TRITON names no environment with a Triton"),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, small_splits):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
        "defenses": [{"name": "gaussian-noise"}],
    }
    folder = tmp_path_factory.mktemp("artifacts") / "target"
    save(folder, "target", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    return folder


@pytest.fixture(scope="module")
def triton(artifact, tmp_path_factory):
    """The address of a Triton that serves the cloud half."""
    half, repository = load_cloud(artifact / "cloud", CPU), tmp_path_factory.mktemp("models")
    write_triton_model(repository, half.name, half.head, half.feature_shape, half.classes, backend="python")
    command = [sys.executable, SERVER, ENVIRONMENT, repository]
    log = (repository.parent / "triton.log").open("w+")
    with log, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        port = server.stdout.readline()
        log.seek(0)
        assert port, log.read()
        yield f"127.0.0.1:{int(port)}"
        server.stdin.close()
        assert server.wait(PATIENCE_S) == 0


def streamed(artifact, address, images):
    """The logits of each image, as the edge has them from the server at ``address``."""
    half = load_edge(artifact / "edge", CPU, seed=7)
    config = EdgeConfig(cloud=address, model=half.name, window=8, channel=ChannelConfig(timeout_s=PATIENCE_S))
    with EdgeClient(half, config) as client:
        batches = ((str(number), image[None]) for number, image in enumerate(images))
        return np.concatenate([answer.output for answer in client.stream(batches)])


def test_the_edge_unchanged_has_from_triton_the_logits_that_our_cloud_gives(artifact, triton, small_splits):
    images = small_splits.victims.floats().numpy()
    with cloud(CloudConfig(), load_cloud(artifact / "cloud", CPU)) as port:
        ours = streamed(artifact, f"127.0.0.1:{port}", images)
    theirs = streamed(artifact, triton, images)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert len(np.unique(ours, axis=0)) == len(images)


def test_what_triton_refuses_is_the_error_of_that_request_alone(artifact, triton):
    half = load_edge(artifact / "edge", CPU)
    image = np.zeros((1, *half.input_shape), np.float32)
    config = EdgeConfig(cloud=triton, model=half.name, channel=ChannelConfig(timeout_s=PATIENCE_S))
    with EdgeClient(half, config) as client:
        refused = client.submit(np.repeat(image, 65, 0), "too many")
        answered = client.submit(image, "one")
        with pytest.raises((ValueError, RuntimeError), match="64"):
            refused.result()
        assert answered.result().output.shape == (1, 10)
    with pytest.raises(LookupError, match="nobody"):
        EdgeClient(half, config.model_copy(update={"model": "nobody"})).__enter__()

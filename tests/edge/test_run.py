import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from splitleak.datasets.files import load_file
from splitleak.edge.client import EdgeConfig
from splitleak.edge.ledger import Ledger, images_digest
from splitleak.edge.run import images_for, run_edge, stream_images
from splitleak.outputs import locked

SERVE = """
import json, sys
import numpy as np
from splitleak.edge.client import EdgeConfig
from splitleak.edge.run import run_edge
from splitleak.wire.server.server import ServerConfig

class Half:
    name, input_shape, feature_shape = "toy", (1, 4, 4), (2, 4, 4)
    def encode(self, images):
        return np.concatenate([images, images], axis=1)

def report(event):
    print(json.dumps(event), flush=True)

config = EdgeConfig(cloud=sys.argv[1], model="toy")
run_edge(config, Half(), images=None, ledger=None, server=ServerConfig(), report=report)
"""


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "victims.npz"
    pixels = np.random.default_rng(5).integers(0, 256, (7, 4, 4), np.uint8)
    np.savez(path, images=pixels, labels=np.arange(7) % 3, classes=np.array(["a", "b", "c"]))
    return path


def test_each_image_is_one_request_and_the_ledger_says_which(tmp_path, encoder, start_cloud, images):
    cloud, events = start_cloud(), []
    config = EdgeConfig(cloud=cloud.address, model="toy")
    run_edge(config, encoder, images=images, ledger=tmp_path / "ledger.json", server=None, report=events.append)
    ledger = Ledger.read(tmp_path / "ledger.json")
    pixels = np.load(images)["images"][:, None].astype(np.float32) / 255
    assert [entry.place for entry in ledger.entries] == list(range(7))
    assert [entry.label for entry in ledger.entries] == [0, 1, 2, 0, 1, 2, 0]
    assert [entry.request_id for entry in ledger.entries] == [each.id for each in cloud.arrived]
    expected = cloud.logits(np.concatenate([pixels, 1 - 3 * pixels], axis=1)).argmax(1)
    assert [entry.predicted for entry in ledger.entries] == expected.tolist()
    assert events == [{"event": "streamed", **ledger.summary(), "sent_again": 0}]


def test_the_ledger_says_of_which_images_and_which_half_it_is(tmp_path, encoder, start_cloud, images):
    config = EdgeConfig(cloud=start_cloud().address, model="toy")
    given = {"images": images, "ledger": tmp_path / "ledger.json", "server": None, "report": print}
    run_edge(config, encoder, **given, model="0123456789ab")
    ledger = Ledger.read(tmp_path / "ledger.json")
    assert (ledger.images, ledger.model) == (images_digest(load_file(images).train), "0123456789ab")


@pytest.mark.slow
def test_a_ledger_of_other_images_or_another_half_is_replaced_with_force_alone(tmp_path, encoder, start_cloud, images):
    cloud = start_cloud()
    config = EdgeConfig(cloud=cloud.address, model="toy")
    place, other = tmp_path / "ledger.json", tmp_path / "other.npz"
    np.savez(other, images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    given = {"ledger": place, "server": None, "report": print}
    run_edge(config, encoder, **given, images=images, model="0123456789ab")
    run_edge(config, encoder, **given, images=images, model="0123456789ab")
    before, arrived = place.read_bytes(), len(cloud.arrived)
    for changed, said in (
        ({"images": other, "model": "0123456789ab"}, "images '[0-9a-f]{12}' and not '[0-9a-f]{12}'"),
        ({"images": images, "model": "ba9876543210"}, "model '0123456789ab' and not 'ba9876543210'"),
    ):
        with pytest.raises(FileExistsError, match=rf"ledger\.json, but it has {said}; --force replaces it"):
            run_edge(config, encoder, **given, **changed)
        assert (place.read_bytes(), len(cloud.arrived)) == (before, arrived)
        run_edge(config, encoder, **given, **changed, force=True)
        assert Ledger.read(place).model == changed["model"]
        run_edge(config, encoder, **given, images=images, model="0123456789ab", force=True)
        before, arrived = place.read_bytes(), len(cloud.arrived)


def test_a_ledger_that_another_edge_will_write_is_told_before_anything_is_sent(tmp_path, encoder, start_cloud, images):
    cloud, place = start_cloud(), tmp_path / "ledger.json"
    config = EdgeConfig(cloud=cloud.address, model="toy")
    with ThreadPoolExecutor(1) as other, locked(place):
        asked = other.submit(run_edge, config, encoder, images=images, ledger=place, server=None, report=print)
        with pytest.raises(BlockingIOError, match=r"alone in writing .*ledger\.json"):
            asked.result()
    assert cloud.arrived == []


def test_what_is_no_ledger_is_not_replaced_and_nothing_is_sent(tmp_path, encoder, start_cloud, images):
    cloud = start_cloud()
    (tmp_path / "thesis.json").write_text('{"mine": 1}')
    given = {"images": images, "ledger": tmp_path / "thesis.json", "server": None, "report": print}
    with pytest.raises(FileExistsError, match=r"expected a ledger .* at .*thesis\.json, got something else"):
        run_edge(EdgeConfig(cloud=cloud.address, model="toy"), encoder, **given)
    assert (tmp_path / "thesis.json").read_text() == '{"mine": 1}'
    assert not cloud.arrived


def test_each_image_is_sent_as_often_as_asked_in_a_row(encoder, start_cloud, images):
    cloud = start_cloud()
    ledger = stream_images(EdgeConfig(cloud=cloud.address, model="toy"), encoder, images_for(encoder, images), repeat=3)
    assert [entry.place for entry in ledger.entries] == [at // 3 for at in range(21)]
    assert [entry.label for entry in ledger.entries[:6]] == [0, 0, 0, 1, 1, 1]
    assert [each.id for each in cloud.arrived] == [entry.request_id for entry in ledger.entries]
    assert [entry.request_id.split("-")[1:] for entry in ledger.entries[2:4]] == [["0", "2"], ["1", "0"]]
    assert (ledger.summary()["images"], ledger.codec) == (7, "fp32")
    with pytest.raises(ValueError, match="at least once, got 0 times"):
        stream_images(EdgeConfig(cloud=cloud.address, model="toy"), encoder, images_for(encoder, images), repeat=0)


@pytest.mark.parametrize(("classes", "labelled"), [("abc", True), ("xyz", True), ("", True), ("cab", False)])
def test_labels_are_not_held_against_outputs_that_are_the_classes_in_another_order(
    tmp_path, encoder, start_cloud, images, classes, labelled
):
    given, ledger = EdgeConfig(cloud=start_cloud().address, model="toy"), tmp_path / "ledger.json"
    run_edge(given, encoder, images=images, ledger=ledger, server=None, report=print, classes=tuple(classes))
    assert all((entry.label is not None) == labelled for entry in Ledger.read(ledger).entries)
    assert (Ledger.read(ledger).summary()["accuracy"] is not None) == labelled


def test_a_rate_holds_the_stream_back(encoder, start_cloud, images):
    given, shown = EdgeConfig(cloud=start_cloud().address, model="toy"), images_for(encoder, images)
    began = time.monotonic()
    ledger = stream_images(given, encoder, shown, rate=100)
    assert time.monotonic() - began > 0.01 * (len(shown) - 1)
    assert len(ledger.entries) == len(shown)


def test_what_a_slow_cloud_held_up_is_not_sent_above_the_rate_afterwards(encoder, start_cloud, images):
    cloud, begun = start_cloud(hold=lambda request: time.sleep(0.6 * (len(cloud.arrived) == 1))), []
    encoder.hold = lambda run: begun.append(time.monotonic())
    given = EdgeConfig(cloud=cloud.address, model="toy", window=1)
    stream_images(given, encoder, images_for(encoder, images), rate=10)
    assert begun[-1] - begun[3] > 0.2  # three more, of which each is a tenth of a second later


def test_two_streams_share_no_id(encoder, start_cloud, images):
    cloud = start_cloud()
    for _ in range(2):
        run_edge(
            EdgeConfig(cloud=cloud.address, model="toy"),
            encoder,
            images=images,
            ledger=None,
            server=None,
            report=lambda event: None,
        )
    assert len({each.id for each in cloud.arrived}) == 14


@pytest.mark.slow
def test_as_a_process_it_says_where_it_listens_and_stops_on_sigterm(start_cloud, patience_s):
    with subprocess.Popen([sys.executable, "-c", SERVE, start_cloud().address], stdout=subprocess.PIPE) as process:
        event = json.loads(process.stdout.readline())
        with grpc.insecure_channel(event["address"]) as channel:
            grpc.channel_ready_future(channel).result(patience_s)
        process.terminate()
        assert process.wait(patience_s) == 0
    assert event["event"] == "listening"

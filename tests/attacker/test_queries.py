"""Queries through a real edge, tap and cloud, and their record."""

import contextlib
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import torch

from splitleak.attacker.queries import EdgeProbe, FunctionProbe, Pairs, ServiceProbe, requests, served_model, victims
from splitleak.cloud.policy import PolicyConfig
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_whole
from splitleak.errors import WireError
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.files import captures
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import MODEL_INFER, MODEL_STREAM_INFER
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

SIGMA = 0.05
PATIENCE_S = 20.0


def clean(deployed, images):
    """The features before the noise, from the encoder itself."""
    with torch.no_grad():
        return deployed.half.encoder(images)


def toy_pairs(draws=3, averaging=2, count=4):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=draw).to(torch.uint8)
    public = Images(pixels, torch.zeros(count, dtype=torch.int64), ("one",))
    features = torch.arange(draws * count * 2.0).view(draws, count, 2)
    return Pairs(features, tuple(public.hashes()), "probe-0-", averaging), public


def capture_of(path, rows):
    """A capture of one request for each ``(id, number of images)``; feature k of the whole file is the value k."""
    with captures.CaptureWriter(path) as writer:
        start = 0
        for call, (name, count) in enumerate(rows):
            features = np.arange(start, start + count, dtype=np.float32)[:, None]
            message = codec.request("toy", codec.encode(features, "fp32"), request_id=name).SerializeToString()
            writer.write(MODEL_INFER, call, "request", message)
            start += count
    return path


def test_a_probe_sees_what_crosses_the_wire(deployed, small_splits):
    probe = EdgeProbe(deployed.edge, deployed.capture, "toy")
    images = small_splits.public.floats()[:40]
    noise = probe(images)[0] - clean(deployed, images)
    assert noise.std() == pytest.approx(SIGMA, rel=0.1)


def test_draws_have_noise_of_their_own_and_views_are_averaged(deployed, small_splits):
    probe = EdgeProbe(deployed.edge, deployed.capture, "toy")
    images = small_splits.public.floats()[:40]
    found = probe(images, draws=2, averaging=4)
    assert found.shape == (2, 40, *deployed.half.feature_shape)
    noise = found - clean(deployed, images)
    assert noise.std() == pytest.approx(SIGMA / 2, rel=0.1)
    assert abs(np.corrcoef(noise.flatten(1))[0, 1]) < 0.1
    assert sum(len(x) for name, x in requests(deployed.capture) if name.startswith(probe.prefix)) == 40 * 8


def test_a_tap_that_the_edge_does_not_pass_is_noticed(deployed, small_splits, tmp_path):
    empty = tmp_path / "elsewhere.capture"
    empty.write_bytes(deployed.capture.read_bytes()[: deployed.before])
    with pytest.raises(WireError, match="the 1 queries just made, but 1 are missing"):
        EdgeProbe(deployed.edge, empty, "toy")(small_splits.public.floats()[:3])


def test_an_edge_that_is_not_there_is_a_connection_error(deployed, small_splits, monkeypatch):
    monkeypatch.setattr("splitleak.attacker.queries.ChannelConfig", lambda: ChannelConfig(connect_timeout_s=0.2))
    probe = EdgeProbe("127.0.0.1:1", deployed.capture, "toy")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        probe(small_splits.public.floats()[:1])


def test_a_query_has_the_time_that_the_channel_says(small_splits, tmp_path):
    over, server = threading.Event(), grpc.server(ThreadPoolExecutor(2))

    class Silent(GRPCInferenceServiceServicer):
        def ModelInfer(self, request, context):
            over.wait(PATIENCE_S)
            context.abort(grpc.StatusCode.ABORTED, "too late")

    add_GRPCInferenceServiceServicer_to_server(Silent(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    probe = EdgeProbe(address, tmp_path / "c", "toy", channel=ChannelConfig(timeout_s=0.2))
    with pytest.raises(TimeoutError, match=f"query to the edge at {address}"):
        probe(small_splits.public.floats()[:1])
    over.set()
    server.stop(0).wait()


def test_queries_whose_message_is_too_large_are_sent_in_smaller_ones(tmp_path):
    images, server = torch.rand(45, 1, 2, 2), grpc.server(ThreadPoolExecutor(2))

    class Narrow(GRPCInferenceServiceServicer):
        """An edge whose features of more than ten images are too many."""

        def ModelInfer(self, request, context):
            pixels = codec.decode(codec.request_tensor(request))
            if len(pixels) > 10:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected a message of at most 99 bytes, got 100")
            sent = codec.request("toy", codec.encode(2 * pixels, "fp32"), request_id=request.id)
            writer.write(MODEL_INFER, 0, "request", sent.SerializeToString())
            return pb.ModelInferResponse()

    add_GRPCInferenceServiceServicer_to_server(Narrow(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with captures.CaptureWriter(tmp_path / "c") as writer:
        found = EdgeProbe(address, tmp_path / "c", "toy")(images, draws=2)
    server.stop(0).wait()
    assert torch.equal(found, torch.stack([2 * images] * 2))
    assert max(len(rows) for _, rows in requests(tmp_path / "c")) == 8


def test_a_record_over_the_budget_of_one_image_sends_nothing(deployed, small_splits):
    size = deployed.capture.stat().st_size
    probe = EdgeProbe(deployed.edge, deployed.capture, "toy")
    with pytest.raises(PermissionError, match="at most 5 queries, got 1800"):
        Pairs.record(probe, small_splits.public, draws=3, averaging=2, budget=5)
    assert deployed.capture.stat().st_size == size


def test_what_is_recorded_is_read_back_from_a_file_without_pickle(tmp_path):
    pairs, _ = toy_pairs()
    pairs.save(tmp_path / "pairs.npz")
    loaded = Pairs.load(tmp_path / "pairs.npz")
    assert torch.equal(loaded.features, pairs.features)
    assert dataclasses.replace(loaded, features=pairs.features) == pairs
    assert loaded.queries == 3 * 4 * 2
    with np.load(tmp_path / "pairs.npz", allow_pickle=False) as file:
        told = {name: file[name].tolist() for name in ("draws", "views", "queries", "prefix")}
    assert told == {"draws": 3, "views": 2, "queries": 24, "prefix": "probe-0-"}
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.npz"]


@pytest.mark.parametrize("changed", [{"queries": np.array(7)}, {"features": np.zeros((3, 9, 2), np.float32)}, None])
def test_a_file_that_is_no_record_is_refused_by_name(tmp_path, changed):
    pairs, _ = toy_pairs()
    path = tmp_path / "pairs.npz"
    pairs.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    if changed is None:
        path.write_bytes(path.read_bytes()[:300])
    else:
        np.savez(path, **{**arrays, **changed})
    with pytest.raises(ValueError, match=r"pairs\.npz: expected"):
        Pairs.load(path)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        Pairs.load(tmp_path / "none.npz")


def test_the_recorded_edge_gives_one_draw_after_the_other_and_begins_again():
    pairs, public = toy_pairs()
    query = pairs.query()
    assert (query.draws, query.averaging) == (3, 2)
    for turn in range(4):
        assert torch.equal(query(public.floats()), pairs.features[turn % 3])
    assert query.made == 4 * 4 * 2


def test_the_recorded_edge_takes_images_in_any_order_and_number():
    pairs, public = toy_pairs()
    query = pairs.query()
    assert torch.equal(query(public.floats()[[2, 0]]), pairs.features[0, [2, 0]])
    assert torch.equal(query(public.floats()), pairs.features[[1, 0, 1, 0], [0, 1, 2, 3]])


def test_an_image_that_is_not_on_record_gets_no_answer():
    pairs, public = toy_pairs()
    images = public.floats()
    for other in (1 - images, images + 1e-4):
        with pytest.raises(PermissionError, match="images that are on record"):
            pairs.query()(other)


def test_the_recorded_edge_keeps_the_budget():
    pairs, public = toy_pairs()
    with pytest.raises(PermissionError, match="at most 7 queries, got 8"):
        pairs.query(budget=7)(public.floats())


def test_the_victims_are_what_is_no_attackers_query(tmp_path):
    rows = [("a-0", 1), ("probe-0123456789ab-0", 2), ("b", 2), ("probe-fedcba987654-17", 1), ("probe-mine", 1)]
    ids, features = victims(capture_of(tmp_path / "c", rows))
    assert ids == ("a-0", "b#0", "b#1", "probe-mine")
    assert features.flatten().tolist() == [0, 3, 4, 6]


def test_views_of_one_victim_are_averaged_under_its_first_id(tmp_path):
    rows = [("a-0", 1), ("a-1", 1), ("probe-0123456789ab-0", 2), ("b-0", 1), ("b-1", 1)]
    capture = capture_of(tmp_path / "c", rows)
    ids, features = victims(capture, averaging=2)
    assert ids == ("a-0", "b-0")
    assert features.flatten().tolist() == [0.5, 4.5]
    with pytest.raises(ValueError, match="in groups of 3, got 4 images"):
        victims(capture, averaging=3)


def test_the_first_crossings_of_a_victim_can_be_all_that_count(tmp_path):
    rows = [("a-0", 1), ("a-1", 1), ("a-2", 1), ("b-0", 1), ("b-1", 1), ("b-2", 1)]
    capture = capture_of(tmp_path / "c", rows)
    for views, seen in ((1, [0, 3]), (2, [0.5, 3.5]), (3, [1, 4])):
        ids, features = victims(capture, averaging=views, crossings=3)
        assert ids == ("a-0", "b-0")
        assert features.flatten().tolist() == seen
    with pytest.raises(ValueError, match="at most 3 views of an image that crossed so often, got 4"):
        victims(capture, averaging=4, crossings=3)


@pytest.mark.parametrize("order", [[0, 4, 1, 5, 2, 6, 3, 7], [2, 0, 4, 6, 1, 3, 5, 7]])
def test_crossings_of_an_image_are_found_however_those_of_others_come_between(tmp_path, order):
    """Two edges at once, or one that makes several calls at a time."""
    rows = [(f"{stream * 8}-{place}-{turn}", 1) for stream in "ab" for place in (0, 1) for turn in (0, 1)]
    capture = capture_of(tmp_path / "c", [rows[number] for number in order])
    ids, features = victims(capture, averaging=2)
    assert set(ids) == {"aaaaaaaa-0-0", "aaaaaaaa-1-0", "bbbbbbbb-0-0", "bbbbbbbb-1-0"}
    came = {rows[number][0]: value for value, number in enumerate(order)}
    expected = [(came[name] + came[f"{name[:-1]}1"]) / 2 for name in ids]
    assert features.flatten().tolist() == expected


def test_crossings_of_several_images_are_not_averaged_where_their_ids_tell(tmp_path):
    rows = [(f"aaaaaaaa-{place}-{turn}", 1) for place in (0, 1) for turn in (0, 1)]
    with pytest.raises(ValueError, match=r"expected 4 consecutive .*, got aaaaaaaa-0-0 with aaaaaaaa-1-0"):
        victims(capture_of(tmp_path / "c", rows), averaging=4)


@pytest.mark.parametrize("shapes", [[(1, 2), (1, 3)], [(1, 2), ()], [()]])
def test_features_of_several_shapes_are_refused_by_name(tmp_path, shapes):
    with captures.CaptureWriter(tmp_path / "c") as writer:
        for call, shape in enumerate(shapes):
            tensor = codec.encode(np.ones(shape, np.float32), "fp32")
            message = codec.request("toy", tensor, request_id=str(call)).SerializeToString()
            writer.write(MODEL_STREAM_INFER, call, "request", message)
    with pytest.raises(ValueError, match=r"expected features \(N, ...\) of one model, got \("):
        victims(tmp_path / "c")


def test_draws_on_record_can_be_averaged_or_left_out():
    features = torch.arange(8.0).view(4, 2, 1)
    pairs = Pairs(features, ("a", "b"), "probe-", 1)
    used = pairs.used(2, None, source="p")
    assert (used.averaging, used.queries) == (2, 8)
    assert used.features.flatten().tolist() == [1, 2, 5, 6]
    assert pairs.used(2, 1, source="p").features.flatten().tolist() == [1, 2]
    assert pairs.used(1, 3, source="p").queries == 6
    with pytest.raises(ValueError, match="p: expected 3 draws of 2 views on record, got 2"):
        pairs.used(2, 3, source="p")
    with pytest.raises(ValueError, match="p: expected pairs of 3 views, as the victims', got 1 and 4 draws"):
        pairs.used(3, None, source="p")
    with pytest.raises(ValueError, match="p: expected pairs of 1 views, as the victims', got 2"):
        used.used(1, None, source="p")


def test_what_an_edge_sent_again_is_one_victim_and_other_bytes_under_one_id_are_two(tmp_path):
    with captures.CaptureWriter(tmp_path / "c") as writer:
        sent = [("a", 1), ("b", 2), ("c", 3), ("b", 2), ("c", 3), ("d", 4), ("a", 5), ("", 6), ("", 6)]
        for call, (name, value) in enumerate(sent):
            features = np.full((1, 1), value, np.float32)
            message = codec.request("toy", codec.encode(features, "fp32"), request_id=name).SerializeToString()
            writer.write(MODEL_STREAM_INFER, call, "request", message)
    ids, found = victims(tmp_path / "c")
    assert ids == ("a", "b", "c", "d", "a", "", "")
    assert found.flatten().tolist() == [1, 2, 3, 4, 5, 6, 6]


def test_a_capture_of_queries_alone_has_no_victim(tmp_path):
    with pytest.raises(ValueError, match=r"expected images that were captured, .*got none"):
        victims(capture_of(tmp_path / "c", [("probe-0123456789ab-0", 2)]))


def test_a_capture_names_the_model_or_is_refused(tmp_path):
    assert served_model(capture_of(tmp_path / "c", [("a", 1)])) == "toy"
    with pytest.raises(WireError, match="at least one inference request, found none"):
        served_model(capture_of(tmp_path / "empty", []))


def test_traffic_of_several_models_is_attacked_one_by_one(tmp_path):
    with captures.CaptureWriter(tmp_path / "c") as writer:
        for call, (model, value) in enumerate([("small", 1), ("large", 2), ("small", 3)]):
            tensor = codec.encode(np.full((1, 2), value, np.float32), "fp32")
            message = codec.request(model, tensor, request_id=str(call)).SerializeToString()
            writer.write(MODEL_INFER, call, "request", message)
        writer.write(MODEL_INFER, 3, "request", b"\xff")
    with pytest.raises(ValueError, match="of one model, or the name of one, got traffic of large, small"):
        victims(tmp_path / "c")
    ids, features = victims(tmp_path / "c", model="small")
    assert (ids, features[:, 0].tolist()) == (("0", "2"), [1, 3])
    with pytest.raises(ValueError, match="expected traffic of the model 'huge', got traffic of large, small"):
        served_model(tmp_path / "c", "huge")


@contextlib.contextmanager
def service(deployed, capture=None, **policy):
    """The whole model as a prediction service, whose edge half adds noise under a seed."""
    whole = load_whole(deployed.folder / "toy", torch.device("cpu"), seed=0)
    config = CloudConfig(policy=PolicyConfig(**policy), noise_seed=1, capture=capture)
    with cloud(config, whole) as port:
        yield f"127.0.0.1:{port}"


def test_a_service_answers_the_attacker_as_everybody(deployed, small_splits, tmp_path):
    with service(deployed, tmp_path / "curious.capture", top=2, rounding=0.1) as address:
        probe = ServiceProbe(address, "toy")
        found = probe(small_splits.public.floats()[:70], draws=2)
        assert torch.equal(
            ServiceProbe(address)(small_splits.public.floats()[:1])[0].count_nonzero(1), torch.tensor([2])
        )
    assert found.shape == (2, 70, 10)
    assert (found.count_nonzero(2) <= 2).all()
    assert torch.equal((found * 10).round() / 10, found)
    with pytest.raises(ValueError, match=r"expected images that were captured, .*got none"):
        victims(tmp_path / "curious.capture")


def test_views_of_a_service_are_averaged(deployed, small_splits):
    images = small_splits.public.floats()[:30]
    with service(deployed, sigma=0.05) as address:
        one, mean = (ServiceProbe(address)(images, draws=2, averaging=averaging) for averaging in (1, 16))
    spread = [(each[0] - each[1]).std() for each in (one, mean)]
    assert spread[1] < spread[0] / 2


def test_pairs_of_a_service_are_recorded_capped_and_read_back(deployed, small_splits, tmp_path):
    with service(deployed, top=3) as address:
        probe = ServiceProbe(address)
        fewer = Pairs.record(probe, small_splits.public, draws=2, averaging=1, budget=101)
        assert (fewer.queries, len(fewer.hashes)) == (100, 50)
        pairs = Pairs.record(probe, small_splits.public, draws=2, averaging=1, budget=600)
    pairs.save(tmp_path / "pairs.npz")
    loaded = Pairs.load(tmp_path / "pairs.npz")
    assert torch.equal(loaded.features, pairs.features)
    assert loaded.features.shape == (2, 300, 10)
    assert torch.equal(loaded.query()(small_splits.public.floats()), pairs.features[0])


def test_records_of_other_outputs_or_other_scores_are_told_apart():
    probes = [
        ServiceProbe("here:1"),
        ServiceProbe("here:1", "toy"),
        ServiceProbe("here:1", "toy", output="logits"),
        ServiceProbe("here:1", "toy", output="logits", scores="logits"),
        FunctionProbe("their:code"),
        FunctionProbe("their:code", scores="logits"),
    ]
    assert len({probe.asked for probe in probes}) == len(probes)
    assert probes[1].asked == "a service of toy"  # as in older records
    assert probes[3].asked == "a service of toy (scores logits, output logits)"

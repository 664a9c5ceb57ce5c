from pathlib import Path

import grpc
import pytest
import torch

from splitleak.attacker.outputs import Reconstructions
from splitleak.config import read_document
from splitleak.edge.ledger import Entry, Ledger
from splitleak.eval import campaign
from splitleak.eval.campaign.bench import Bench
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.store import Store
from splitleak.wire.client.channel import ChannelConfig, connect
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "logs").mkdir()
    return Bench(Store(tmp_path), Children(), device="cpu", threads=1)


@pytest.fixture
def job():
    return Job("predict-1", "predict", "one", 0, "predictions/1", (), 1.0, {})


@pytest.mark.slow
def test_a_service_listens_while_the_block_runs_and_not_after_it(bench, job, artifact):
    given = ("cloud", artifact / "cloud", *bench.computing())
    with bench.serving(job, *given) as address, connect(address, ChannelConfig()) as channel:
        assert GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=10).live
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=1)


@pytest.mark.slow
def test_a_service_that_does_not_start_says_why(bench, job, tmp_path):
    (tmp_path / "theirs").write_text("somebody's thesis")
    with (
        pytest.raises(RuntimeError, match="theirs: expected a capture"),
        bench.serving(job, "tap", "--upstream", "127.0.0.1:1", "--capture", tmp_path / "theirs"),
    ):
        pass


def test_paths_of_a_job_are_below_the_campaign(bench, tmp_path):
    assert bench.below("images/a") == tmp_path / "images" / "a"


def test_settings_of_a_command_are_written_beside_its_output(bench, tmp_path):
    assert bench.written(tmp_path / "made" / "target", {"seed": 1}) == tmp_path / "made" / "target.config.json"
    assert bench.written(tmp_path / "made" / "cost.json", {"seed": 2}, "policy").name == "cost.policy.json"
    assert read_document(tmp_path / "made" / "target.config.json") == {"seed": 1}


def test_an_attack_on_another_stream_than_is_scored_is_made_again(bench, job, tmp_path):
    """A run was stopped before the score, and the capture was made anew since: its requests have other ids."""
    times = {f"{part}_us": 1 for part in ("encode", "serialise", "network", "queue", "compute", "total")}
    for name in ("own", "other"):
        entry = Entry(request_id=name, place=0, predicted=1, sent_bytes=8, payload_sha256="a" * 64, **times)
        Ledger(entries=(entry,)).write(tmp_path / f"{name}.json")
    assert not bench.has_attacked(job, tmp_path / "own.json")
    bench.attacked(job).mkdir(parents=True)
    Reconstructions(("own",), torch.zeros(1, 1, 2, 2)).save(bench.attacked(job) / "reconstructions.npz")
    assert bench.has_attacked(job, tmp_path / "own.json")
    assert bench.has_attacked(job)
    assert not bench.has_attacked(job, tmp_path / "other.json")
    assert [path for path in bench.attacked(job).parent.iterdir() if path.is_dir()] == []


def test_settings_reach_the_processes_of_a_campaign_in_files_alone():
    for path in Path(campaign.__file__).parent.rglob("*.py"):
        assert '"--set"' not in path.read_text(encoding="utf-8"), path

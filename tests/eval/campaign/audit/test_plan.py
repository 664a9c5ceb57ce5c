import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from splitleak.config import read_document
from splitleak.eval.campaign.audit.config import AuditedTarget
from splitleak.eval.campaign.audit.plan import AuditCampaign, make_audit_plan
from splitleak.eval.campaign.jobs import _DO
from splitleak.eval.campaign.kinds import plan_campaign
from splitleak.eval.campaign.store import is_whole


@pytest.fixture
def planned(artifact, small_splits, tmp_path):
    small_splits.save(tmp_path / "images")

    def make(minutes=0.6, **more):
        target = AuditedTarget.found(artifact, tmp_path / "images", more.pop("codec", "fp32")).document()
        about = {"name": "toy", "seeds": [0], "target": target, "audit": {"minutes": minutes}, **more}
        return make_audit_plan(AuditCampaign.parse(about, source="audit"))

    return make


def test_the_target_is_a_job_that_is_done_and_all_else_follows_from_it(planned, artifact):
    plan = planned()
    assert [job.kind for job in plan.jobs] == ["train", "capture", *["cell"] * 3, "linkage"]
    assert plan.jobs[0].output == str(artifact)
    assert [cell["attack"] for cell in plan.cells_in_order] == ["nearest", "linear", "decoder"]
    assert {cell["method"] for cell in plan.cells_in_order} == {"toy"}
    assert plan.config.overview()[1:] == [(name, name, "1", "") for name in ("nearest", "linear", "decoder")]


def test_ids_follow_from_budget_target_and_seed(planned, artifact):
    first = [job.id for job in planned().jobs]
    assert first == [job.id for job in planned().jobs]
    assert set(first) < {job.id for job in planned(minutes=60).jobs}
    assert not set(first) & {job.id for job in planned(seeds=[1]).jobs}
    weights = artifact / "edge" / "weights.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert not set(first) & {job.id for job in planned().jobs}
    finally:
        weights.write_bytes(whole)


def test_ids_follow_from_the_code_of_a_plug_in_that_the_target_is_defended_by(planned, monkeypatch):
    def ids(code):
        mine = SimpleNamespace(name="mine:Mine", code_digest=lambda: code)
        monkeypatch.setattr("splitleak.eval.campaign.config.plugins_of", lambda *given: [mine] if code else [])
        jobs = planned().jobs
        assert all(job.code == ({"mine:Mine": code} if code else {}) for job in jobs)
        return {job.id for job in jobs}

    assert ids("first") == ids("first")
    assert not ids("first") & ids("second")
    assert not ids("first") & ids("")


def test_an_audit_is_a_kind_of_campaign_of_one_version(planned):
    document = json.loads(json.dumps(planned().config.document()))
    assert plan_campaign(document, "a.toml").document() == planned().document()
    with pytest.raises(ValueError, match=r"a\.toml: expected .*audit 2, which this splitleak has, got audit 1"):
        plan_campaign({**document, "audit": {"version": "audit 1"}}, "a.toml")


def test_an_audit_of_predictions_has_one_service_and_its_clients_for_all_attacks(planned):
    plan = planned(audit={"threat": "predictions", "minutes": 600})
    train, service, *cells = plan.jobs
    assert (train.kind, service.kind, {job.kind for job in cells}) == ("train", "predict", {"cell"})
    assert service.settings["shares"] == [0, 1, 3]
    for job in cells:
        assert job.settings["predictions"] == service.output
        assert service.id in job.needs
    places = {(cell["method"], cell["attack"]) for cell in plan.cells_in_order}
    assert len(places) == len(plan.cells_in_order) == len(cells)
    assert plan.config.overview()[0] == ("attack", "queries")


def test_a_campaign_on_features_has_no_audit_of_predictions():
    document = read_document(Path("eval/campaigns/cem_small_audit.toml"))
    document["attacks"][0]["settings"] = {"threat": "predictions"}
    with pytest.raises(ValueError, match="expected a threat model of features, got predictions"):
        plan_campaign(document, "c.toml")


@pytest.mark.parametrize("half", ["edge", "cloud"])
def test_a_target_that_is_not_whole_is_refused_and_never_made_anew(planned, artifact, half):
    weights = artifact / half / "weights.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:100])
        with pytest.raises(ValueError, match=r"toy: expected a target with both halves whole, .*|weights\.safetensors"):
            planned()
    finally:
        weights.write_bytes(kept)


def test_a_network_that_was_imported_as_it_came_is_whole_without_weights(own_network, small_splits, tmp_path):
    folder = own_network()
    small_splits.save(tmp_path / "images")
    target = AuditedTarget.found(folder / "mine", tmp_path / "images", "fp32").document()
    about = {"name": "mine", "seeds": [0], "target": target, "audit": {"minutes": 0.6}}
    plan = make_audit_plan(AuditCampaign.parse(about, source="audit"))
    assert is_whole("train", Path(plan.jobs[0].output))
    (folder / "mine" / "cloud" / "network.onnx").unlink()
    assert not is_whole("train", folder / "mine")


def test_an_audit_of_predictions_shares_as_many_scores_as_the_target_gives(own_network, small_splits, tmp_path):
    target = own_network() / "mine"
    small_splits.save(tmp_path / "images")
    found = AuditedTarget.found(target, tmp_path / "images", "fp32").document()
    about = {"name": "mine", "target": found, "audit": {"threat": "predictions"}, "seeds": [0]}
    with pytest.raises(ValueError, match="expected a target of known training images, got one imported without"):
        make_audit_plan(AuditCampaign.parse(about, source="audit"))
    known = json.loads((target / "artifact.json").read_text()) | {"dataset": small_splits.record}
    (target / "artifact.json").write_text(json.dumps(known))

    def shared(outputs):
        half = target / "edge" / "half.json"
        half.write_text(re.sub(r'"classes": \d+', f'"classes": {outputs}', half.read_text()))
        return make_audit_plan(AuditCampaign.parse(about, source="audit")).jobs[1].settings["shares"]

    assert len(small_splits.public.classes) == 10
    assert [shared(outputs) for outputs in (5, 2)] == [[0, 1, 3], [0, 1]]
    with pytest.raises(ValueError, match=r"expected a target of two outputs or more .*got one: its score is"):
        shared(1)


def test_no_job_trains_a_target_that_lies_elsewhere(planned):
    train = planned().jobs[0]
    with pytest.raises(ValueError, match=r"expected the target .*toy, which is none of this campaign's own, to stay"):
        _DO["train"](None, train)  # refused before anything is run

"""A tiny campaign against a prediction service. Every process of it is real."""

import json
import tomllib
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from splitleak.attacker.prior import Prior
from splitleak.attacker.queries import Pairs
from splitleak.datasets.files import load_file
from splitleak.eval.campaign.bench import Bench
from splitleak.eval.campaign.kinds import plan_campaign
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.predictions import jobs
from splitleak.eval.campaign.processes import Children
from splitleak.eval.campaign.store import Store
from splitleak.eval.record.schema import Service, load_record
from splitleak.wire.files.shared import SharedScores

pytestmark = pytest.mark.slow

CAMPAIGN = """
kind = "predictions"
name = "tiny"
seeds = [3]
split = { public = 100, victims = 10, train = 200, test = 60 }
training = { epochs = 1, batch_size = 64 }
evaluator_training = { epochs = 1, batch_size = 64 }
settings = { prediction-inversion = { epochs = 2 }, class-inference = { epochs = 2 }, mi-face = { steps = 3 } }

[[datasets]]
name = "images"
size = 16
channels = 1

[model]
name = "conv3"
architecture = "conv3"
width = 0.05

[evaluator]
name = "cnn"
architecture = "cnn"
width = 0.5

[[figures]]
name = "victims"
title = "Victims"
rows = [{ name = "two highest", share = 2, policy = { top = 5 } }]

[[figures]]
name = "classes"
title = "Classes"
rows = [{ name = "inferred", attack = "class-inference", policy = { top = 5 } }, { name = "white", attack = "mi-face" }]
"""


@pytest.fixture(scope="module")
def folder(campaign_run):
    """The folder of the campaign, run to its end."""
    return campaign_run("predictions", CAMPAIGN)


@pytest.fixture(scope="module")
def records(folder):
    found = [load_record(path.parent) for path in folder.glob("cells/*/score/record.json")]
    return {record.cell.attack: record for record in found}


@pytest.fixture(scope="module")
def predictions(folder):
    (found,) = folder.glob("predictions/[!.]*/")
    return found


def test_every_row_has_a_record_with_an_evaluator_of_its_own(records):
    assert set(records) == {"prediction-inversion", "class-inference", "mi-face"}
    for record in records.values():
        assert 0 <= record.evaluator.accuracy <= 1
        assert record.evaluator.name != record.target.name


def test_victims_share_what_is_left_of_what_the_service_lets_out(predictions, records):
    shared = SharedScores.load(predictions / "shared-2.npz")
    assert (np.asarray(shared.scores) > 0).sum(1).max() <= 2
    assert Pairs.load(predictions / "pairs-same.npz").features[0].gt(0).sum(1).max() <= 5
    assert records["prediction-inversion"].attack.findings.document()["share"] == 2
    assert {record.threat_model.sees for record in records.values()} == {"scores", "nothing"}


def test_the_attacker_was_given_its_own_images_alone(folder, records, predictions):
    (images,) = folder.glob("images/images-*/")
    pairs = Pairs.load(predictions / "pairs-same.npz")
    assert pairs.hashes == tuple(load_file(images / "public.npz").train.hashes())
    assert not set(pairs.hashes) & set(load_file(images / "victims.npz").train.hashes())
    assert (
        records["prediction-inversion"].threat_model.queries == records["class-inference"].threat_model.queries == 100
    )


def test_what_the_policy_costs_is_on_record_and_a_white_box_has_none(predictions, records):
    service = json.loads((predictions / "service.json").read_text())
    assert records["prediction-inversion"].service == Service.parse(service, source="service.json")
    assert service["policy"]["top"] == 5
    assert 0 < service["distortion"] < 2
    assert service["changed"] == 0  # the highest score stays
    assert records["mi-face"].service is None


def test_the_report_is_written_at_the_end(folder):
    assert "two highest" in (folder / "report" / "report.md").read_text()
    assert (folder / "report" / "report.html").is_file()


def test_an_embedder_judges_pictures_of_classes_again_and_attacks_nothing(folder, records, embedder, monkeypatch):
    monkeypatch.setattr(jobs, "_attack", lambda *_: pytest.fail("attacked again"))
    document = {**tomllib.loads(CAMPAIGN), "embedder": str(embedder)}
    cells = plan_campaign(document, "test").cells
    [cell] = [cell for cell in cells if cell.settings["attack"] == "mi-face"]
    bench = Bench(Store(folder), Children())
    told = jobs.do_figure_cell(bench, cell)
    record = load_record(bench.store.path(cell))
    assert record.scores == records["mi-face"].scores
    assert record.id == records["mi-face"].id
    assert record.cell.id == cell.key != records["mi-face"].cell.id
    assert told["verified % at 1 %"] == f"{100 * record.figures.embedded.at['0.01'].rebuilt.rate:.1f}"
    assert all("embedder" not in each.settings for each in cells if each.settings["cell"]["kind"] == "victims")


def test_a_prior_of_ones_own_is_copied_into_the_campaign(tmp_path, tiny_prior):
    tiny_prior.save(tmp_path / "mine")
    settings = {"prior": {"folder": str(tmp_path / "mine"), "digest": tiny_prior.digest}}
    job = Job.of("prior", tiny_prior.digest, "of one's own", 0, f"priors/{tiny_prior.digest}", [], settings)
    bench = Bench(Store(tmp_path / "run"), Children())
    jobs.do_prior(bench, job)
    assert bench.store.is_done(job)
    assert Prior.load(bench.store.path(job), torch.device("cpu")).digest == tiny_prior.digest


def test_a_prior_of_ones_own_that_changed_since_the_campaign_was_planned_is_refused(tmp_path, tiny_prior):
    tiny_prior.save(tmp_path / "mine")
    settings = {"prior": {"folder": str(tmp_path / "mine"), "digest": "of another"}}
    job = Job.of("prior", "another", "of one's own", 0, "priors/another", [], settings)
    bench = Bench(Store(tmp_path / "run"), Children())
    with pytest.raises(ValueError, match="mine: expected the prior that the campaign was planned with, got another"):
        jobs.do_prior(bench, job)
    assert not bench.store.path(job).exists()


def test_an_embedder_that_changed_since_the_campaign_was_planned_judges_nothing(embedder, tmp_path):
    own = tmp_path / "embedder.onnx"
    own.write_bytes(embedder.read_bytes())
    plan = plan_campaign({**tomllib.loads(CAMPAIGN), "embedder": str(own)}, "test")
    [cell] = [cell for cell in plan.cells if cell.settings["attack"] == "mi-face"]
    own.write_bytes(embedder.read_bytes() + b"more")
    bench = Bench(Store(tmp_path / "run"), Children())
    bench.attacked(cell).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"embedder\.onnx: expected the embedder that the campaign was planned with"):
        jobs.do_figure_cell(bench, cell)
    assert not bench.store.path(cell).exists()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"attack": "brep-mi", "policy": {"top": 3}}, {"top": 3, "labels": True}),
        ({"attack": "brep-mi"}, {"top": None, "labels": False}),
        ({"attack": "mirror-genetic", "purify": {}}, {"top": None, "labels": False, "purified": True}),
    ],
)
def test_who_asks_the_service_itself_meets_the_rows_policy_and_purifier(row, told, tmp_path, monkeypatch):
    asked = {}

    @contextmanager
    def service(bench, job, artifact, policy):
        asked.update(top=policy["top"], purified=policy["purifier"] is not None)
        yield "somewhere"

    monkeypatch.setattr(jobs, "_service", service)
    monkeypatch.setattr(Bench, "attack", lambda bench, job, *given: asked.update(labels="--labels-only" in given))
    document = tomllib.loads(CAMPAIGN)
    document["figures"] = [{"name": "live", "title": "Live", "rows": [{"name": "asks", **row}]}]
    [cell] = plan_campaign(document, "test").cells
    jobs._attack(Bench(Store(tmp_path), Children()), cell)
    assert asked == {"purified": False, **told}

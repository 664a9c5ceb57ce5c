from pathlib import Path

import pytest

from splitleak.eval.campaign.extending import read_campaign
from splitleak.eval.campaign.kinds import KINDS, plan_campaign
from splitleak.eval.report.report import write_report

FIGURES = ("GMI", "PPA", "GMI - other people")
CAMPAIGNS = Path(__file__).parents[3] / "eval" / "campaigns"


@pytest.mark.parametrize(
    ("file", "kind"), [("cem_small", "features"), ("truncation_small", "predictions"), ("classes_adaptive", "classes")]
)
def test_a_file_is_planned_as_what_it_says_it_is(file, kind):
    made = plan_campaign(read_campaign(CAMPAIGNS / f"{file}.toml"), file)
    assert made.config.document()["kind"] == kind
    assert made.document()["cells"]


def test_another_kind_is_refused_by_name():
    expected = "expected a campaign of kind features, predictions, classes, audit, got 'labels'"
    with pytest.raises(ValueError, match=expected):
        plan_campaign({"kind": "labels"}, "some.toml")


def test_a_run_of_any_kind_is_reported_by_one_report(fake_campaign, fake_predictions, attacked, tmp_path):
    folders = {"features": fake_campaign(methods=("PATROL",), seeds=(0,)), "predictions": fake_predictions()}
    pages = {kind: write_report(folder, tmp_path / "reports" / kind).read_text() for kind, folder in folders.items()}
    shares = {(name, row, seed): 0.5 for name in FIGURES for row in ("none", "defended") for seed in (0, 1)}
    pages["classes"] = write_report(attacked(shares).folder, tmp_path / "reports" / "classes").read_text()
    assert {*pages, "audit"} == set(KINDS)  # an audit's page is in tests/splitleak/cli/test_auditing.py
    of_kind = {"features": "Accuracy and leak", "predictions": "Victims rebuilt", "classes": "Targets and attacks"}
    for kind, heading in of_kind.items():
        assert {other for other, page in pages.items() if heading in page} == {kind}

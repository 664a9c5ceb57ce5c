from functools import partial
from pathlib import Path

import pytest

from splitleak.config import read_document
from splitleak.eval.campaign.kinds import KINDS, plan_campaign, report_campaign

CAMPAIGNS = Path(__file__).parents[3] / "eval" / "campaigns"


@pytest.mark.parametrize(
    ("file", "kind"), [("cem_small", "features"), ("truncation_small", "predictions"), ("classes_small", "classes")]
)
def test_a_file_is_planned_as_what_it_says_it_is(file, kind):
    made = plan_campaign(read_document(CAMPAIGNS / f"{file}.toml"), file)
    assert made.config.document()["kind"] == kind
    assert made.document()["cells"]


def test_another_kind_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected a campaign of kind features, predictions, classes, got 'labels'"):
        plan_campaign({"kind": "labels"}, "some.toml")


def test_a_run_is_reported_as_the_kind_that_it_was(fake_campaign, fake_predictions, tmp_path):
    rows = {"none": {"kind": "classes", "attack": "gmi"}}
    of_classes = partial(fake_predictions, {"GMI": rows}, config={"kind": "classes", "attacks": [{"name": "GMI"}]})
    made = {"features": fake_campaign, "predictions": fake_predictions, "classes": of_classes}
    pages = {kind: report_campaign(make(), tmp_path / kind).read_text() for kind, make in made.items()}
    assert set(pages) == set(KINDS)
    assert len(set(pages.values())) == len(KINDS)
    assert "Targets and attacks" in pages["classes"]

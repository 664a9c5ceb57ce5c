"""The kinds of campaigns. This table is all that knows them apart: what a file is read as, its jobs, its report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitleak.eval.campaign.classes.config import ClassCampaign
from splitleak.eval.campaign.classes.plan import make_class_plan
from splitleak.eval.campaign.config import CampaignConfig
from splitleak.eval.campaign.plan import Plan, make_plan
from splitleak.eval.campaign.predictions.config import PredictionCampaign
from splitleak.eval.campaign.predictions.plan import make_prediction_plan
from splitleak.eval.campaign.store import Store
from splitleak.eval.report.features_report import write_campaign_report
from splitleak.eval.report.figures_report import write_prediction_report


@dataclass(frozen=True)
class CampaignKind:
    """What is done with a campaign's file, and with the folder of its run."""

    plan: Callable[[object, str], Plan]
    report: Callable[[Path, Path], Path]


def _features(values: object, source: str) -> Plan:
    return make_plan(CampaignConfig.load(values, source=source))


def _predictions(values: object, source: str) -> Plan:
    return make_prediction_plan(PredictionCampaign.load(values, source=source))


def _classes(values: object, source: str) -> Plan:
    return make_class_plan(ClassCampaign.load(values, source=source))


KINDS: Mapping[str, CampaignKind] = {
    "features": CampaignKind(_features, write_campaign_report),
    "predictions": CampaignKind(_predictions, write_prediction_report),
    "classes": CampaignKind(_classes, write_prediction_report),
}


def plan_campaign(document: Mapping[str, Any], source: str) -> Plan:
    """The jobs of a campaign's file; without a ``kind`` it is one against features.

    Raises:
        ValueError: There is no such kind, or something in the document does not fit.
        FileNotFoundError: The images are not there.
    """
    return _kind(document, source).plan(document, source)


def report_campaign(folder: Path, out: Path) -> Path:
    """Writes the report of the campaign in ``folder``, and returns the path of its page.

    Raises:
        FileNotFoundError: ``folder`` is no campaign's.
    """
    return _kind(Store(folder).read_plan()["config"], str(folder)).report(folder, out)


def _kind(document: Mapping[str, Any], source: str) -> CampaignKind:
    name = document.get("kind", "features")
    if name not in KINDS:
        raise ValueError(f"{source}: expected a campaign of kind {', '.join(KINDS)}, got {name!r}")
    return KINDS[name]

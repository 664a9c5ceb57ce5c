"""The kinds of campaigns: what each kind of file is read as, and the jobs it plans. Their report is one."""

from collections.abc import Callable, Mapping
from typing import Any

from splitleak.eval.campaign.audit.plan import AuditCampaign, make_audit_plan
from splitleak.eval.campaign.classes.config import ClassCampaign
from splitleak.eval.campaign.classes.plan import make_class_plan
from splitleak.eval.campaign.config import CampaignConfig
from splitleak.eval.campaign.plan import Plan, make_plan
from splitleak.eval.campaign.predictions.config import PredictionCampaign
from splitleak.eval.campaign.predictions.plan import make_prediction_plan


def _features(values: object, source: str) -> Plan:
    return make_plan(CampaignConfig.load(values, source=source))


def _predictions(values: object, source: str) -> Plan:
    return make_prediction_plan(PredictionCampaign.load(values, source=source))


def _classes(values: object, source: str) -> Plan:
    return make_class_plan(ClassCampaign.load(values, source=source))


def _audit(values: object, source: str) -> Plan:
    return make_audit_plan(AuditCampaign.parse(values, source=source))


KINDS: Mapping[str, Callable[[object, str], Plan]] = {
    "features": _features,
    "predictions": _predictions,
    "classes": _classes,
    "audit": _audit,
}


def plan_campaign(document: Mapping[str, Any], source: str) -> Plan:
    """The jobs of a campaign's file; without a ``kind`` it is one against features.

    Raises:
        ValueError: There is no such kind, or something in the document does not fit.
        FileNotFoundError: The images are not there.
    """
    name = document.get("kind", "features")
    if name not in KINDS:
        raise ValueError(f"{source}: expected a campaign of kind {', '.join(KINDS)}, got {name!r}")
    return KINDS[name](document, source)

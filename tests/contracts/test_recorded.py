"""What was planned and recorded before stays as it was: the ids of every job of every campaign file."""

import json
from pathlib import Path

import pytest

from splitleak.config import digest, read_document
from splitleak.eval.campaign.kinds import plan_campaign

ROOT = Path(__file__).parents[2]
PLANS = json.loads((ROOT / "tests" / "fixtures" / "plans.json").read_text(encoding="utf-8"))


@pytest.fixture
def any_data(monkeypatch):
    """Every data set counts as there: its fingerprint follows from its name."""
    for module in ("campaign.plan", "campaign.predictions.plan"):
        monkeypatch.setattr(f"splitleak.eval.{module}.fingerprint", lambda data: digest(["stand-in", data]))


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_of_a_campaign_file_has_the_ids_it_always_had(name, any_data):
    file = ROOT / "eval" / "campaigns" / f"{name}.toml"
    plan = plan_campaign(read_document(file), str(file))
    kinds = {}
    for job in plan.jobs:
        kinds.setdefault(job.kind, []).append([job.id, job.output, list(job.needs)])
    assert {
        "jobs": len(plan.jobs),
        "order": digest([job.id for job in plan.jobs]),
        "kinds": {kind: {"jobs": len(jobs), "digest": digest(sorted(jobs))} for kind, jobs in kinds.items()},
        "cells": digest(list(plan.cells_in_order)),
        "besides": digest(list(plan.besides_in_order)),
    } == PLANS[name]

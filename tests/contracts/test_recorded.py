"""What was planned and recorded before stays as it was: the ids of all jobs, and every recorded report."""

import ast
import json
import re
from pathlib import Path

import pytest

from splitleak.config import digest
from splitleak.eval.campaign.extending import read_campaign
from splitleak.eval.campaign.kinds import plan_campaign
from splitleak.eval.report.report import write_report

ROOT = Path(__file__).parents[2]
RECORDED = [path.parent for path in sorted((ROOT / "eval" / "results").glob("*/records.jsonl"))]
PLANS = json.loads((ROOT / "tests" / "fixtures" / "plans.json").read_text(encoding="utf-8"))


@pytest.fixture
def any_data(monkeypatch):
    """Every data set counts as there: its fingerprint follows from its name."""
    for module in ("campaign.plan", "campaign.predictions.plan"):
        monkeypatch.setattr(f"splitleak.eval.{module}.fingerprint", lambda data: digest(["stand-in", data]))


LARGE = ("classes_small",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in PLANS])
def test_the_plan_of_a_campaign_file_has_the_ids_it_always_had(name, any_data):
    file = ROOT / "eval" / "campaigns" / f"{name}.toml"
    plan = plan_campaign(read_campaign(file), str(file))
    kinds = {}
    for job in plan.jobs:
        kinds.setdefault(job.kind, []).append([job.id, job.output, list(job.needs)])
    assert {
        "jobs": len(plan.jobs),
        "order": digest([job.id for job in plan.jobs]),
        "kinds": {kind: {"jobs": len(jobs), "digest": digest(sorted(jobs))} for kind, jobs in kinds.items()},
        "cells": digest(list(plan.cells_in_order)),
        "besides": digest(list(plan.target_measures)),
    } == PLANS[name]


# Recorded results render again from their records.


@pytest.mark.slow
@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
def test_a_recorded_report_renders_again_from_its_records_with_the_same_figures(folder, tmp_path, undrawn):
    write_report(folder, tmp_path / "report")
    for name in ("report.md", "table.csv", *(path.name for path in folder.glob("besides.csv"))):
        written = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert written == (folder / name).read_text(encoding="utf-8"), name
    write_report(tmp_path / "report", tmp_path / "again")
    for name in ("report.md", "table.csv", "records.jsonl", "campaign.json"):
        texts = [(tmp_path / out / name).read_text(encoding="utf-8") for out in ("report", "again")]
        assert texts[0] == texts[1], name


# A record is a type: its keys are known to the schema alone.

SCHEMA = ROOT / "eval" / "record" / "schema.py"
MODULES = [path for room in ("eval", "attacker") for path in sorted((ROOT / room).rglob("*.py")) if path != SCHEMA]
KEYS_OF_A_RECORD = re.compile(r"""\[["']score["']\]|\[["']target["']\]\[["']target["']\]""")


def test_no_module_but_the_schema_knows_the_keys_of_a_record():
    assert len(MODULES) > 80
    knowing = {str(path.relative_to(ROOT)) for path in MODULES if KEYS_OF_A_RECORD.search(path.read_text("utf-8"))}
    assert knowing == set()


def annotated(tree):
    """Each name that is annotated in a module, and its annotation as text; a function's is that of what it returns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target), ast.unparse(node.annotation)
        elif isinstance(node, ast.arg) and node.annotation is not None:
            yield node.arg, ast.unparse(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.name, ast.unparse(node.returns)


def test_no_dictionary_stands_for_a_record():
    said = {
        f"{path.relative_to(ROOT)}: {name}: {annotation}"
        for path in MODULES
        for name, annotation in annotated(ast.parse(path.read_text(encoding="utf-8")))
        if re.search(r"(^|_)records?$", name) and re.search(r"(dict|Mapping)\[str, Any\]", annotation)
    }
    assert said == set()

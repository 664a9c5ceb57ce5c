import re
from pathlib import Path

import pytest

from splitleak.eval.report import comparisons, flags
from splitleak.eval.report.flag_guide import GUIDE, guide_of
from splitleak.eval.report.results import Results

RESULTS = sorted(path.parent for path in Path("eval/results").glob("*/campaign.json"))


def test_every_flag_that_is_raised_is_explained():
    source = "".join(Path(module.__file__).read_text() for module in (flags, comparisons))
    raised = set(re.findall(r'f?"([a-z ]+): ', source)) - {"expected"}
    assert raised - set(GUIDE) == set()
    assert len(raised) > 12


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_every_flag_on_record_is_explained(folder):
    assert [flag for flag, _ in Results.load(folder).doubts or () if guide_of(flag) is None] == []


def test_an_unknown_flag_has_no_explanation():
    assert guide_of("no such flag: at all") is None

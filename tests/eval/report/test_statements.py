import pytest

from splitleak.eval.report.seed_tests import SeedTest
from splitleak.eval.report.statements import Case, Statement, over_cases


@pytest.mark.parametrize(
    ("margins", "verdict"),
    [((3.0, 3.1, 2.9), "holds"), ((-3.0, -3.1, -2.9), "refuted"), ((3.0, -1.0, 2.0), "cannot be told")],
)
def test_what_is_tested_over_seeds_holds_is_refuted_or_cannot_be_told(margins, verdict):
    cases = (Case("", margins),)
    assert Statement("t", cases, "", claimed=True, tested=SeedTest.of(margins)).verdict == verdict


def test_the_margin_of_many_cases_is_the_least_with_its_own_error():
    cases = (Case("a", (3.0, 1.0)), Case("b", (0.5, 0.7)), Case("c", (9.0,)))
    found = Statement("t", cases, "")
    assert found.closest is cases[1]
    assert (found.verdict, found.margin, found.error) == ("holds", pytest.approx(0.6), pytest.approx(0.1))
    assert found.margin_text == "0.6 ± 0.1"
    broken = Statement("t", (*cases, Case("d", (-0.1234567,))), "")
    assert (broken.verdict, broken.margin_text) == ("does not hold", "-0.123")


def test_the_means_over_seeds_may_bear_out_another_margin_than_the_mean_of_margins():
    found = Statement("t", (Case("", (-1.0, 0.5), of_means=0.25),), "")
    assert (found.verdict, found.margin) == ("holds", 0.25)
    assert found.error == pytest.approx(0.75)


def test_nothing_measured_is_no_verdict():
    found = over_cases("t", [])
    assert (found.verdict, found.margin, found.error, found.margin_text) == ("not measured", None, None, "")


@pytest.mark.parametrize(("strict", "verdict"), [(True, "does not hold"), (False, "holds")])
def test_a_margin_of_zero_is_enough_unless_more_is_stated(strict, verdict):
    assert Statement("t", (Case("", (0.0,)),), "", strict=strict).verdict == verdict


def test_the_cases_that_break_a_statement_are_named_and_else_all():
    good, even, bad = Case("good", (1.0,)), Case("even", (0.0,)), Case("bad", (-1.0,))
    assert over_cases("t", iter([good, good])).figures == "2 of 2: good; good"
    found = over_cases("t", [good, even, bad])
    assert (found.figures, found.verdict) == ("1 of 3; not in even; bad", "does not hold")

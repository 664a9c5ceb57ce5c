import pytest

from splitleak.eval.campaign.predictions.claims import ClaimEntry
from splitleak.eval.record.metrics import metric_names

CLAIM = {"text": "more is better", "figure": "truncation", "metric": "mse", "lower": "m = 3", "higher": "m = 1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "beauty"}, "metric"),
        ({"higher": "m = 3"}, "two different rows"),
        ({"factor": 2.0, "within": 1.0}, "either factor or within"),
        ({"factor": 0.0}, "factor"),
        ({"within": -1.0}, "within"),
    ],
)
def test_what_is_no_claim_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClaimEntry.parse({**CLAIM, **changes}, source="test")


def test_a_claim_names_rows_of_one_figure():
    claim = ClaimEntry.parse(CLAIM, source="test")
    claim.check_names({"truncation": ["m = 1", "m = 3"], "other": []})
    with pytest.raises(ValueError, match="expected a figure of other, got 'truncation'"):
        claim.check_names({"other": ["m = 1", "m = 3"]})
    with pytest.raises(ValueError, match="expected a row of m = 1, got 'm = 3'"):
        claim.check_names({"truncation": ["m = 1"]})


def test_the_statement_says_what_is_checked():
    assert ClaimEntry.parse(CLAIM, source="test").statement == "mse: 'm = 3' ≤ 'm = 1'"
    assert ClaimEntry.parse({**CLAIM, "factor": 1.3}, source="test").statement == "mse: 1.3 x 'm = 3' ≤ 'm = 1'"
    assert ClaimEntry.parse({**CLAIM, "within": 2.0}, source="test").statement == "mse: |'m = 3' - 'm = 1'| ≤ 2"


def test_a_claim_may_be_about_every_metric_and_no_other():
    for name in metric_names():
        assert ClaimEntry.parse({**CLAIM, "metric": name}, source="test").metric == name
    with pytest.raises(ValueError, match=r"expected a metric of accuracy, .*, got 'beauty'"):
        ClaimEntry.parse({**CLAIM, "metric": "beauty"}, source="test")


def test_rows_of_one_name_are_of_two_figures_or_refused():
    same = {**CLAIM, "lower": "none", "higher": "none"}
    claim = ClaimEntry.parse({**same, "figure": "weak", "against": "strong"}, source="test")
    assert claim.places == (("weak", "none"), ("strong", "none"))
    assert claim.statement == "mse: 'none' ≤ 'none' of strong"
    with pytest.raises(ValueError, match="two different rows"):
        ClaimEntry.parse({**same, "figure": "weak"}, source="test")


def test_the_margin_is_what_is_left_of_what_is_claimed():
    found = [
        ClaimEntry.parse({**CLAIM, **given}, source="test").margin(2.0, 5.0)
        for given in ({}, {"factor": 2.0}, {"within": 1.0})
    ]
    assert found == [3.0, 1.0, -2.0]

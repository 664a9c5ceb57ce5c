import pytest

from splitleak.eval.report.claims import Checked, ClaimEntry, check
from splitleak.eval.report.figures_results import PredictionResults

CLAIM = {"text": "more is better", "figure": "truncation", "metric": "mse", "lower": "m = 3", "higher": "m = 1"}


def checked(folder, **changes):
    [found] = check(PredictionResults.load(folder), [ClaimEntry.parse({**CLAIM, **changes}, source="test")])
    return found


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


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "holds"), (1.4, "holds"), (1.6, "does not hold")])
def test_the_factor_is_held_against_the_means(fake_predictions, factor, verdict):
    found = checked(fake_predictions(), factor=factor)
    assert (found.lower, found.higher) == (pytest.approx(0.0205), pytest.approx(0.0305))
    assert found.verdict == verdict


@pytest.mark.parametrize("lower", ["m = 3", "m = 1"])
@pytest.mark.parametrize(("within", "verdict"), [(0.0101, "holds"), (0.0099, "does not hold")])
def test_within_is_a_distance_either_way(fake_predictions, lower, within, verdict):
    higher = "m = 1" if lower == "m = 3" else "m = 3"
    assert checked(fake_predictions(), lower=lower, higher=higher, within=within).verdict == verdict


def test_a_mean_may_hold_where_a_seed_does_not(fake_predictions):
    def worse_once(record):
        if (record["cell"]["row"], record["cell"]["seed"]) == ("m = 3", 1):
            record["score"]["mse"]["mean"] = 0.0311

    found = checked(fake_predictions(change=worse_once))
    assert (found.holds, found.held, found.seeds) == (True, (0,), (0, 1))
    assert found.figures == "m = 3: 0.02555, m = 1: 0.0305; margin 0.00495 ± 0.005; in 1 of 2 seeds"
    assert found.doubtful


def test_a_seed_that_lacks_a_row_does_not_count(fake_predictions):
    def lacking(record):
        return (record["cell"]["row"], record["cell"]["seed"]) != ("m = 3", 0)

    found = checked(fake_predictions(change=lacking))
    assert (found.lower, found.higher, found.seeds) == (0.021, 0.031, (1,))


def test_what_has_no_record_or_no_such_metric_is_not_measured(fake_predictions):
    assert checked(fake_predictions(change=lambda record: False)).verdict == "not measured"
    found = checked(fake_predictions(), metric="recognised")
    assert (found.holds, found.verdict, found.figures) == (None, "not measured", "")


def test_the_statement_says_what_is_checked():
    assert ClaimEntry.parse(CLAIM, source="test").statement == "mse: 'm = 3' ≤ 'm = 1'"
    assert ClaimEntry.parse({**CLAIM, "factor": 1.3}, source="test").statement == "mse: 1.3 x 'm = 3' ≤ 'm = 1'"
    assert ClaimEntry.parse({**CLAIM, "within": 2.0}, source="test").statement == "mse: |'m = 3' - 'm = 1'| ≤ 2"


def test_a_row_may_be_held_against_the_same_row_of_another_figure(fake_predictions):
    rows = {"none": {"kind": "classes", "attack": "gmi"}}
    figures = {"weak": {"none": rows["none"] | {"id": "a"}}, "strong": {"none": rows["none"] | {"id": "b"}}}

    def change(record):
        record["score"]["recognised"]["mean"] = {"weak": 0.3, "strong": 0.6}[record["cell"]["figure"]]

    results = PredictionResults.load(fake_predictions(figures, change))
    document = {"text": "t", "metric": "recognised", "lower": "none", "higher": "none"}
    [found] = check(results, [ClaimEntry.parse({**document, "figure": "weak", "against": "strong"}, source="test")])
    assert (found.holds, found.lower, found.higher) == (True, 30, 60)
    assert found.figures == "none (weak): 30, none (strong): 60; margin 30 ± 0; in 2 of 2 seeds"
    with pytest.raises(ValueError, match="two different rows"):
        ClaimEntry.parse({**document, "figure": "weak"}, source="test")


def test_the_margin_is_paired_by_seed_and_twice_its_error_is_no_doubt(fake_predictions):
    def shift(record):
        record["score"]["mse"]["mean"] += 0.1 * record["cell"]["seed"]

    alone, moved = checked(fake_predictions()), checked(fake_predictions(change=shift))
    assert moved.margins == pytest.approx(alone.margins) == (pytest.approx(0.01), pytest.approx(0.01))
    assert moved.error == pytest.approx(0, abs=1e-12)
    assert not moved.doubtful
    assert checked(fake_predictions(), within=0.003).margins == pytest.approx((-0.007, -0.007))


def test_a_margin_of_the_size_of_its_error_is_doubtful():
    claim = ClaimEntry.parse(CLAIM, source="test")
    surely, hardly = (Checked(claim, True, 1, 2, (0, 1), margins) for margins in ((3.0, 1.0), (4.0, 0.0)))
    assert (surely.error, hardly.error) == (1.0, 2.0)
    assert (surely.doubtful, hardly.doubtful) == (False, True)

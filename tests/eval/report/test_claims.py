import pytest

from splitleak.eval.report.claims import claims
from splitleak.eval.report.results import Results

CLAIM = {"text": "more is better", "figure": "truncation", "metric": "mse", "lower": "m = 3", "higher": "m = 1"}


@pytest.fixture
def checked(fake_predictions):
    """``checked(...)``: a claim of a campaign's file as a statement; ``change`` is that of `fake_predictions`."""

    def check(change=lambda record: None, figures=None, seeds=(0, 1), **changes):
        given = fake_predictions(figures, change, seeds=seeds, claims=[{**CLAIM, **changes}])
        [found] = claims(Results.load(given))
        return found

    return check


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "holds"), (1.45, "cannot be told"), (1.7, "refuted"), (4.0, "refuted")]
)
def test_the_factor_is_held_against_the_means(checked, factor, verdict):
    found = checked(factor=factor, seeds=range(6))
    assert found.figures.startswith("m = 3: 0.0225, m = 1: 0.0325; ")
    assert found.margin == pytest.approx(0.0325 - factor * 0.0225)
    assert found.verdict == verdict


@pytest.mark.parametrize("lower", ["m = 3", "m = 1"])
@pytest.mark.parametrize(("within", "verdict"), [(0.0101, "holds"), (0.0099, "refuted")])
def test_within_is_a_distance_either_way(checked, lower, within, verdict):
    higher = "m = 1" if lower == "m = 3" else "m = 3"
    assert checked(lower=lower, higher=higher, within=within, seeds=range(6)).verdict == verdict


def test_where_one_seed_holds_and_one_does_not_it_cannot_be_told(checked):
    def worse_once(record):
        if (record["cell"]["row"], record["cell"]["seed"]) == ("m = 3", 1):
            record["scores"]["mse"]["mean"] = 0.0311

    found = checked(worse_once)
    assert (found.verdict, found.claimed, found.seeds) == ("cannot be told", True, (0, 1))
    assert found.figures.startswith("m = 3: 0.02555, m = 1: 0.0305; in 1 of 2 seeds; 95 % interval -0.0")
    assert found.figures.endswith("about 19 seeds would tell")


def test_a_seed_that_lacks_a_row_does_not_count(checked):
    def lacking(record):
        return (record["cell"]["row"], record["cell"]["seed"]) != ("m = 3", 0)

    found = checked(lacking)
    assert found.figures == "m = 3: 0.021, m = 1: 0.031; in 1 of 1 seed; one seed"
    assert (found.seeds, found.margin, found.error) == ((1,), pytest.approx(0.01), None)


def test_what_has_no_record_or_no_such_metric_is_not_measured(checked):
    assert checked(lambda record: False).verdict == "not measured"
    found = checked(metric="recognised")
    assert (found.verdict, found.margin, found.figures, found.seeds) == ("not measured", None, "", ())


def test_a_row_may_be_held_against_the_same_row_of_another_figure(checked):
    rows = {"none": {"kind": "classes", "attack": "gmi"}}
    figures = {"weak": {"none": rows["none"] | {"id": "a"}}, "strong": {"none": rows["none"] | {"id": "b"}}}

    def change(record):
        record["scores"]["recognised"]["mean"] = {"weak": 0.3, "strong": 0.6}[record["cell"]["figure"]]

    about = {"metric": "recognised", "lower": "none", "higher": "none", "figure": "weak", "against": "strong"}
    found = checked(change, figures, **about)
    assert (found.verdict, found.margin) == ("cannot be told", pytest.approx(30))
    same = "the same in all seeds, p 0.5; about 6 seeds would tell"
    assert found.figures == f"none (weak): 30, none (strong): 60; in 2 of 2 seeds; {same}"
    assert found.text == "more is better [weak; recognised: 'none' ≤ 'none' of strong]"


def test_the_margin_is_paired_by_seed(checked):
    def shift(record):
        record["scores"]["mse"]["mean"] += 0.1 * record["cell"]["seed"]

    alone, moved = checked(), checked(shift)
    assert moved.closest.margins == pytest.approx(alone.closest.margins) == (pytest.approx(0.01), pytest.approx(0.01))
    assert moved.error == pytest.approx(0, abs=1e-12)
    assert checked(within=0.003).closest.margins == pytest.approx((-0.007, -0.007))


def test_claims_that_are_none_are_refused(fake_predictions):
    with pytest.raises(ValueError, match=r"fake: expected a ClaimEntry, but .*colour"):
        claims(Results.load(fake_predictions(claims=[{**CLAIM, "colour": "red"}])))
    assert claims(Results.load(fake_predictions())) == []


def test_the_more_is_claimed_the_surer_a_claim_must_be(fake_predictions):
    def noisy(record):
        if record["cell"]["row"] == "m = 3":
            record["scores"]["mse"]["mean"] += 0.001 * record["cell"]["seed"]

    alone, many = (
        claims(Results.load(fake_predictions(change=noisy, seeds=(0, 1, 2), claims=[{**CLAIM, "factor": 1.4}] * count)))
        for count in (1, 20)
    )
    assert [each.verdict for each in alone] == ["cannot be told"]
    few, lots = (
        claims(Results.load(fake_predictions(change=noisy, seeds=(0, 1, 2), claims=[CLAIM] * count)))
        for count in (1, 20)
    )
    assert few[0].verdict == "holds"
    assert {each.verdict for each in lots} == {"cannot be told"}
    assert lots[0].tested.p == pytest.approx(20 * few[0].tested.p)
    assert many[0].margin == alone[0].margin

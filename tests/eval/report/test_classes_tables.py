import pytest

from splitleak.eval.report.classes_tables import summary
from splitleak.eval.report.figures_results import STRONGEST, PredictionResults

ROW = {"kind": "classes", "attack": "gmi"}
ATTACKS = {"kind": "classes", "attacks": [{"name": "GMI"}, {"name": "PPA"}], "strongest": {"losses": ["GMI"]}}


@pytest.fixture
def results(fake_predictions):
    """Two attacks on two targets, and one on another setting that is stronger than both."""

    def make(shares, left_out=()):
        def change(record):
            place = (record["cell"]["figure"], record["cell"]["row"], record["cell"]["seed"])
            hits = record["score"]["recognised"] | {"mean": shares[place], "images": [[0, 1], [1, 1]]}
            record["score"]["recognised"] = hits
            return place not in left_out

        figures = {
            name: {row: {**ROW, "id": f"{name}-{row}"} for row in ("none", "defended")}
            for name in ("GMI", "PPA", "GMI - other people")
        }
        return PredictionResults.load(fake_predictions(figures, change, config=ATTACKS))

    return make


SHARES = {
    (figure, row, seed): share
    for figure, row, share in (
        ("GMI", "none", 0.8),
        ("PPA", "none", 0.7),
        ("GMI", "defended", 0.1),
        ("PPA", "defended", 0.2),
        ("GMI - other people", "none", 1.0),
        ("GMI - other people", "defended", 1.0),
    )
    for seed in (0, 1)
}


def test_the_strongest_attack_is_chosen_for_each_target_and_seed_among_those_on_the_first_setting(results):
    found = results(SHARES | {("PPA", "none", 1): 0.9})
    assert found.by_seed(STRONGEST, "none", "recognised") == {0: 80, 1: 90}
    assert found.by_seed(STRONGEST, "defended", "recognised") == {0: 20, 1: 20}


def test_the_strongest_may_be_looked_for_among_some(results):
    assert results(SHARES).by_seed("losses", "defended", "recognised") == {0: 10, 1: 10}


def test_a_target_with_an_attack_not_measured_yet_has_no_strongest(results):
    found = results(SHARES, left_out={("GMI", "defended", 1)})
    assert found.by_seed(STRONGEST, "defended", "recognised") == {0: 20}


def test_the_table_says_which_attack_it_was_and_how_sure_each_share_is(results):
    [sheet] = summary(results(SHARES | {("PPA", "none", 1): 0.9}))
    assert [name for _, name in sheet.columns] == [
        "target",
        "accuracy %",
        "GMI",
        "PPA",
        STRONGEST,
        "which",
        "losses",
        "which",
    ]
    none, defended = ([str(text) for text in row] for row in sheet.rows)
    assert none[0] == "none"
    assert none[5] == "GMI 1, PPA 1"
    assert defended[4] == "20.0 ± 0.0 (±25.0)"  # hits 0, 1, 1, 1: a deviation of a half over two
    assert defended[5] == "PPA 2"
    assert defended[7] == "GMI 2"


def test_a_campaign_without_a_table_of_attacks_has_no_such_table(fake_predictions):
    assert summary(PredictionResults.load(fake_predictions())) == []

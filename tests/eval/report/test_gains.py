import pytest

from splitleak.eval.report.flags import cell_flags
from splitleak.eval.report.gains import gain_sheets
from splitleak.eval.report.headline import verdict
from splitleak.eval.report.results import Results, Row

ACCESS = {"public-by-scores": "score", "public-by-label": "label", "gmi": "white", "brep-mi": "label"}
TABLES = {"public by scores": "public-by-scores", "public by label": "public-by-label", "GMI": "gmi", "BREP": "brep-mi"}
CONFIG = {
    "kind": "classes",
    "attacks": [{"name": "GMI", "attack": "gmi"}, {"name": "BREP", "attack": "brep-mi"}],
    "targets": [{"name": name, "defenses": []} for name in ("none", "noisy", "noisier")]
    + [{"name": "defended", "defenses": [{"name": "mid"}]}],
}
CLASSES = 10


def hits(share):
    """Of 10 classes with 10 pictures, the first pictures, as many as ``share`` says."""
    return [[int(10 * label + turn < share) for turn in range(10)] for label in range(CLASSES)]


def figures(recognised, opened, fit):
    score = {"mean": 0.5}
    top = {"mean": recognised / 100, "images": 100, "hits": hits(recognised)}
    return {
        "n": 100,
        "classes": CLASSES,
        "images_per_class": 10,
        "chance": 0.1,
        "evaluator_on_private": 1.0,
        "top1": top,
        "target_confidence": score,
        "delta_eval": score,
        "delta_eval_squared": score,
        "centroid_eval": score,
        "private_fit": {"loss": -0.1 + 1.1 * (1 - fit), "confidence": fit},
        "open_set": {
            "classes": 20,
            "right": {"mean": opened / 100, "hits": hits(opened)},
            "others": 0.5,
            "accuracy": 0.95,
            "accuracy_own": 0.9,
        },
    }


@pytest.fixture
def measured(fake_predictions):
    """``measured(shares, accuracies)``: results of attacks and baselines, shares in percent by table and target.

    By the open-set judge, half as many are right; every second seed moves all shares by 10 points.
    """

    def make(shares, accuracies, *, seeds=(0, 1, 2, 3), fit=0.95, changes=None):
        def change(record):
            place = record["cell"]
            share = shares[place["figure"]][place["row"]] + 10 * (place["seed"] % 2)
            accuracy = accuracies[place["row"]] + (place["seed"] % 2)
            record["target"]["accuracy"] = accuracy / 100
            record["threat_model"]["access"] = ACCESS[place["attack"]]
            record["scores"]["recognised"]["mean"] = share / 100
            record["figures"] = figures(share, share / 2, fit)
            if changes and place["figure"] in changes:
                changes[place["figure"]](record)

        rows = {
            table: {
                row: {"kind": "classes", "attack": TABLES[table], "id": f"{table}-{row}", "target": row}
                for row in of_rows
            }
            for table, of_rows in shares.items()
        }
        return Results.load(fake_predictions(rows, change, seeds=seeds, config=CONFIG))

    return make


BASE = {
    "public by scores": {"none": 60, "defended": 50},
    "public by label": {"none": 30, "defended": 20},
    "GMI": {"none": 80, "defended": 60},
    "BREP": {"none": 50, "defended": 30},
}


def sheet(results, title):
    [found] = [sheet for sheet in gain_sheets(results) if sheet.title == title]
    return [[text.ours for text in row] for row in found.rows]


def test_an_attack_is_measured_against_the_best_baseline_of_no_more_access_than_its_own(measured):
    results = measured(BASE, {"none": 90, "defended": 90})
    gains = {table: results.spread(table, Row("none"), "gain").mean for table in ("GMI", "BREP")}
    assert gains == pytest.approx({"GMI": 20, "BREP": 20})  # labels alone do not give the pictures of most confidence
    assert results.spread("GMI", Row("none"), "open_gain").mean == pytest.approx(10)
    assert results.spread("public by scores", Row("none"), "gain") is None


def test_as_many_pictures_are_compared_as_the_attack_gives(measured):
    """The first of a baseline's pictures are those that the target is surest of."""

    def first(record):
        for judged in (record["figures"]["top1"], record["figures"]["open_set"]["right"]):
            judged["hits"] = [of_class[:1] for of_class in judged["hits"]]

    accuracies, few_of_gmi = {"none": 90, "defended": 90}, {"GMI": first}
    few = measured(BASE, accuracies, seeds=(0,), changes=few_of_gmi)
    assert few.spread("public by scores", Row("none"), "recognised").mean == pytest.approx(60)
    [row, _] = sheet(few, "Gain over the best baseline")
    assert (row[4], few.spread("GMI", Row("none"), "gain").mean) == ("60.0", pytest.approx(20))
    shares = BASE | {"public by scores": {"none": 64, "defended": 50}}
    sure = measured(shares, accuracies, seeds=(0,), changes=few_of_gmi)
    assert sure.spread("GMI", Row("none"), "gain").mean == pytest.approx(10)


def test_a_group_is_held_against_the_baseline_of_all_that_it_may_see(measured):
    """An attack that needs labels alone may be the strongest: who has the weights has the better baseline."""
    shares = BASE | {"BREP": {"none": 90, "defended": 30}}
    results = measured(shares, {"none": 90, "defended": 90})
    assert results.spread("BREP", Row("none"), "gain").mean == pytest.approx(60)
    assert results.strongest_names(Row("none")) == "BREP 4"
    assert results.spread("strongest", Row("none"), "gain").mean == pytest.approx(30)


def test_errors_are_clustered_by_class(measured):
    results = measured(BASE, {"none": 90, "defended": 90}, seeds=(0,))
    assert results.spread("GMI", Row("none"), "recognised_error").mean == pytest.approx(100 * (0.16 / 9) ** 0.5)
    assert results.spread("GMI", Row("none"), "gain_error").mean == pytest.approx(100 * (0.16 / 9) ** 0.5)


def test_the_verdict_is_of_the_gain(measured):
    said = " ".join(verdict(measured(BASE, {"none": 90, "defended": 90}), ()))
    assert (
        "none: 85\u00a0% of the strongest attack's pictures are recognised, +20 points over the best pictures" in said
    )


def test_an_attack_without_a_gain_is_flagged(measured):
    results = measured(BASE | {"GMI": {"none": 60, "defended": 60}}, {"none": 90, "defended": 90}, seeds=(0,))
    flagged = {(cell.table, cell.row.name) for cell, flag, _ in cell_flags(results) if flag.startswith("no gain: not")}
    assert {("GMI", "none"), ("GMI", "defended")} <= flagged
    assert not {table for table, _ in flagged} & {"public by scores", "public by label"}


def test_a_target_that_was_stopped_too_early_is_flagged(measured):
    early = measured(BASE, {"none": 90, "defended": 90}, fit=0.26)
    told = {flag for cell, flag, _ in cell_flags(early) if flag.startswith("target: not converged")}
    [flag] = told
    assert "0.26" in flag


def test_a_defense_that_only_lowers_the_accuracy_is_worth_nothing(measured):
    """The pictures of a less accurate target are recognised less often, and so are its baselines."""
    lowered = {name: {"none": of["none"], "noisy": of["none"] - 20} for name, of in BASE.items()}
    results = measured(lowered, {"none": 90, "noisy": 60})
    assert results.spread("GMI", Row("noisy"), "recognised").mean == pytest.approx(65)  # 20 points less
    rows = {row[2]: row[3:5] for row in sheet(results, "What a defense is worth") if row[0] == "noisy"}
    assert rows == {"closed set": ["+0.0", "worth nothing"], "open set": ["+0.0", "worth nothing"]}


@pytest.mark.slow
def test_a_defense_is_compared_at_equal_accuracy(measured):
    """Attacks gain less on a less accurate target: what an undefended one loses is not the defense's."""
    shares = {
        "public by scores": dict.fromkeys(("none", "noisy", "noisier", "defended"), 20),
        "public by label": dict.fromkeys(("none", "noisy", "noisier", "defended"), 20),
        "GMI": {"none": 80, "noisy": 60, "noisier": 40, "defended": 50},
        "BREP": dict.fromkeys(("none", "noisy", "noisier", "defended"), 20),
    }
    accuracies = {"none": 90, "noisy": 70, "noisier": 50, "defended": 60}
    rows = {
        row[0]: row[3:5]
        for row in sheet(measured(shares, accuracies), "What a defense is worth")
        if row[2] == "closed set"
    }
    assert rows["defended"] == ["+0.0", "worth nothing"]
    assert rows["noisy"] == ["+0.0", "worth nothing"]
    spared = shares | {"GMI": shares["GMI"] | {"defended": 30}}
    rows = {
        row[0]: row[3:5]
        for row in sheet(measured(spared, accuracies, seeds=range(9)), "What a defense is worth")
        if row[2] == "closed set"
    }
    assert rows["defended"] == ["+20.0", "protects"]


def test_of_undefended_targets_of_one_accuracy_the_mean_gain_counts(measured):
    """Accuracies of few images are often equal: the luckiest of them is no measure of a defense."""
    names = ("none", "noisy", "noisier", "defended")
    shares = {table: dict.fromkeys(names, 20) for table in ("public by scores", "public by label", "BREP")}
    shares |= {"GMI": {"none": 60, "noisy": 80, "noisier": 70, "defended": 70}}
    accuracies = {"none": 90, "noisy": 90, "noisier": 90, "defended": 90}
    rows = sheet(measured(shares, accuracies, seeds=range(9)), "What a defense is worth")
    found = {row[0]: row[3:5] for row in rows if row[2] == "closed set"}
    assert found == {name: ["+0.0", "worth nothing"] for name in names[1:]}


def test_below_the_accuracy_of_all_undefended_targets_nothing_is_compared(measured):
    """What they would gain there was not measured: a defense that ruins its target gets no worth for that."""
    names = ("none", "noisy", "defended")
    shares = {table: dict.fromkeys(names, 20) for table in ("public by scores", "public by label", "BREP")}
    shares |= {"GMI": {"none": 80, "noisy": 60, "defended": 30}}
    found = [
        {
            row[0]
            for row in sheet(measured(shares, {"none": 90, "noisy": 70, "defended": own}), "What a defense is worth")
        }
        for own in (70, 69)
    ]
    assert found == [{"noisy", "defended"}, {"noisy"}]


def test_neighbours_are_told_apart_or_not(measured):
    results = measured(BASE, {"none": 90, "defended": 70}, seeds=range(8))
    [closed, opened] = sheet(results, "Which can be told apart")
    assert closed[:6] == ["defended < none", "strongest", "closed set", "-20.0", "+10.0", "apart"]
    assert opened[:6] == ["defended < none", "strongest", "open set", "-20.0", "+5.0", "apart"]


def test_what_was_judged_by_the_older_rule_has_no_gain(attacked):
    results = attacked(
        {
            (table, row, seed): 0.5
            for table in ("GMI", "PPA", "GMI - other people")
            for row in ("none", "defended")
            for seed in (0, 1)
        }
    )
    assert gain_sheets(results) == []
    assert "no figure here is a leak yet" in " ".join(verdict(results, ()))
    assert [beside for _, beside in results.judged_beside_baselines] == [False] * len(results.measured)

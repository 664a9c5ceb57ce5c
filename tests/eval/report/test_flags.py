import pytest

from splitleak.attacker.reconstruction import ATTACKS
from splitleak.eval.report.flags import campaign_flags, flags, prediction_flags


def record(errors, mean_image=1.0):
    history = [{"loss": 1.0, "held_out_mse": error} for error in errors]
    return {"attack": {"findings": {"history": history, "held_out_mse": min(errors), "mean_image_mse": mean_image}}}


def test_a_converged_attack_that_beats_the_mean_image_raises_no_doubt():
    assert flags(record([0.5, 0.2, 0.1, 0.1, 0.1])) == []


@pytest.mark.parametrize(("error", "doubted"), [(0.96, True), (0.94, False)])
def test_an_attack_hardly_better_than_the_mean_image_is_doubted(error, doubted):
    assert any(flag.startswith("mean image") for flag in flags(record([error] * 4))) == doubted


@pytest.mark.parametrize(("last", "doubted"), [(0.19, True), (0.199, False), (0.3, False)])
def test_an_attack_still_getting_better_at_its_end_is_doubted(last, doubted):
    found = flags(record([0.5, 0.4, 0.3, 0.2, last]))
    assert [flag.split(":")[0] for flag in found] == (["not converged"] if doubted else [])


@pytest.mark.parametrize(
    ("surer", "doubted"),
    [([0.1, 0.4, 0.7, 0.8], True), ([0.1, 0.6, 0.8, 0.82], False), ([0.1, 0.2, 0.3], False), ([], False)],
)
def test_a_search_that_ends_while_the_target_gets_surer_is_doubted(surer, doubted):
    search = {"attack": {"findings": {"history": [{"loss": 1.0, "confidence": each} for each in surer]}}}
    assert [flag.split(":")[0] for flag in flags(search)] == (["not converged"] if doubted else [])


def test_the_last_quarter_of_a_search_is_what_counts():
    history = [{"confidence": each} for each in (0.0, 0.1, 0.6, 0.6, 0.79, 0.8, 0.8, 0.81)]
    assert flags({"attack": {"findings": {"history": history}}}) == []


def test_the_last_tenth_of_the_epochs_is_what_counts():
    falling = [0.5 - 0.01 * epoch for epoch in range(20)]
    assert flags(record(falling))
    assert flags(record([*falling, *[0.31] * 5])) == []


def test_an_attack_that_reports_no_errors_raises_no_doubt():
    assert flags({"attack": {"findings": {"steps": 3}}}) == []
    assert flags({"attack": {"findings": {"history": [{"loss": 1.0}]}}}) == []


def test_one_epoch_is_too_few_to_tell():
    assert flags(record([0.2])) == []


@pytest.mark.parametrize(("norm", "doubted"), [(0.0, True), (1e-12, True), (float("nan"), True), (1e-3, False)])
def test_a_gradient_that_does_not_reach_the_pixels_is_doubted(norm, doubted):
    found = flags({"attack": {"findings": {"gradient_norm_start": norm}}})
    assert [flag.split(":")[0] for flag in found] == (["zero gradient"] if doubted else [])


@pytest.mark.parametrize(("chosen", "doubted"), [(5, True), (6, False)])
def test_an_attack_that_never_beat_its_own_start_is_doubted(chosen, doubted):
    found = flags({"attack": {"findings": {"decoder_epochs": 5, "chosen_epoch": chosen}}})
    assert any(flag.startswith("start") for flag in found) == doubted
    assert flags({"attack": {"findings": {"decoder_epochs": 0, "chosen_epoch": chosen}}}) == []


def cell(attack="decoder", mse=0.02, *, target="t", views=1, defenses=(), **config):
    """A record of one cell; ``attack`` is both the entry's name and the attack's."""
    return {
        "cell": {"method": "M", "plus": None, "seed": 0, "attack": attack, "target": target, "views": views},
        "target": {"target": {"defenses": [{"name": name, "config": {}} for name in defenses]}},
        "attack": {"attack": attack, "config": config, "findings": {}},
        "score": {"mse": {"mean": mse}},
    }


def kinds(records, leakage=None):
    return [(flagged["attack"], flag.split(":")[0]) for flagged, flag in campaign_flags(records, leakage or {})]


def test_doubts_about_single_records_are_told_of_their_cells():
    doubtful = cell()
    doubtful["attack"]["findings"] = {"mean_image_mse": 0.1, "held_out_mse": 0.1}
    [(about, flag)] = campaign_flags([cell(target="fine"), doubtful], {})
    assert about == doubtful["cell"]
    assert flag.startswith("mean image")


def test_a_randomised_defense_seen_once_is_doubted_until_one_attack_sees_more():
    noisy = {"defenses": ("bottleneck", "gaussian-noise")}
    assert kinds([cell(**noisy), cell("gan", **noisy)]) == [(None, "randomised")]
    assert kinds([cell(**noisy), cell("gan", views=8, **noisy)]) == []
    assert kinds([cell(**noisy), cell(views=8, target="another", **noisy)]) == [(None, "randomised")]
    assert kinds([cell(defenses=("bottleneck",))]) == []
    assert "gaussian-noise" in campaign_flags([cell(**noisy)], {})[0][1]


@pytest.mark.parametrize(("white", "doubted"), [(0.03, True), (0.02, False), (0.01, False)])
def test_knowing_the_weights_and_doing_worse_is_doubted(monkeypatch, white, doubted):
    class WhiteBox(ATTACKS["decoder"]):
        needs = frozenset({"encoder"})

    monkeypatch.setitem(ATTACKS, "white", WhiteBox)
    records = [cell(mse=0.02), cell("unheard-of", 0.001), cell("white", white), cell("white", 0.5)]
    assert kinds(records) == ([(None, "white box")] if doubted else [])
    assert kinds(records[2:]) == []


def test_a_score_below_the_bound_is_doubted_and_one_at_it_is_not():
    leakage = {"t": {"mse_bound": 0.02}}
    assert kinds([cell(mse=0.019), cell("gan", 0.02)], leakage) == [("decoder", "below the bound")]
    assert kinds([cell(mse=0.019, views=8)], leakage) == []  # many views have less noise than the bound counts
    assert kinds([cell(mse=0.019)], {}) == []
    assert kinds([cell(mse=0.019)], {"t": {}}) == []


@pytest.mark.parametrize(("mse", "doubted"), [(0.021, True), (0.0201, False), (0.01, False)])
def test_an_attack_weaker_than_the_one_it_starts_from_is_doubted(mse, doubted):
    found = kinds([cell(mse=0.02), cell("gan", mse, start="decoder")])
    assert found == ([("gan", "start")] if doubted else [])
    assert kinds([cell(mse=0.02), cell("gan", mse, start="scratch")]) == []
    assert kinds([cell(mse=0.02, views=4), cell("gan", mse, start="decoder")]) == []


def prediction(attack="prediction-inversion", mse=0.02, *, constant=0.05, policy=None, draws=1, defenses=(), **more):
    """A record of a campaign of predictions."""
    return {
        "cell": {"figure": "f", "row": "r", "seed": 0, "policy": policy or {}, "purify": more.get("purify")},
        "target": {"target": {"defenses": [{"name": name, "config": {}} for name in defenses]}, "accuracy": 0.9},
        "attack": {"attack": attack, "draws": draws, "findings": more.get("findings", {})},
        "score": {"mse": {"mean": mse}},
        "constant_mse": constant,
        "evaluator": {"accuracy": more.get("evaluator", 0.95)},
    }


def doubts(**given):
    return [flag.split(":")[0] for _, flag in prediction_flags([prediction(**given)])]


def test_a_good_attack_on_predictions_raises_no_doubt():
    assert doubts() == []
    assert doubts(constant=None) == []
    assert doubts(policy={"top": 3, "rounding": 0.05}) == []


@pytest.mark.parametrize(("mse", "doubted"), [(0.048, True), (0.047, False)])
def test_pictures_no_closer_than_a_constant_are_doubted(mse, doubted):
    assert doubts(mse=mse) == (["constant picture"] if doubted else [])


@pytest.mark.parametrize(
    ("given", "doubted"),
    [
        ({"policy": {"sigma": 0.1}}, True),
        ({"policy": {"sigma": 0.1}, "draws": 4}, False),
        ({"policy": {"sigma": 0.1, "noise": "fixed"}}, False),
        ({"policy": {"noise": "fresh"}}, False),
        ({"defenses": ("gaussian-noise",)}, True),
        ({"defenses": ("bottleneck",)}, False),
    ],
)
def test_a_service_that_draws_anew_asked_once_is_doubted(given, doubted):
    assert doubts(**given) == (["randomised"] if doubted else [])


def test_an_attack_that_runs_the_model_speaks_for_no_policy():
    assert doubts(attack="mi-face") == []
    [(about, flag)] = prediction_flags([prediction("mi-face", policy={"sigma": 0.1}, purify={})])
    assert about["row"] == "r"
    assert flag.startswith("white box: the attack runs the model itself, so sigma, purification is nothing to it")
    assert doubts(attack="mi-face", purify={}) == ["white box"]


@pytest.mark.parametrize(("mass", "doubted"), [(0.02, True), (0.01, False)])
def test_shared_scores_of_classes_never_seen_are_doubted(mass, doubted):
    assert doubts(findings={"mass_dropped": mass}) == (["unseen classes"] if doubted else [])


@pytest.mark.parametrize(("accuracy", "doubted"), [(0.899, True), (0.9, False)])
def test_an_evaluator_weaker_than_the_target_is_doubted(accuracy, doubted):
    assert doubts(evaluator=accuracy) == (["evaluator"] if doubted else [])


def test_what_is_doubted_of_any_attack_is_doubted_of_these():
    assert doubts(findings={"mean_image_mse": 0.1, "held_out_mse": 0.1}) == ["mean image"]


@pytest.mark.parametrize(("accuracy", "doubted"), [(0.19, True), (0.2, False)])
def test_a_target_hardly_better_than_chance_is_doubted(accuracy, doubted):
    given = record([0.5, 0.5])
    given["target"] = {"target": {"model": {"classes": 10}}, "accuracy": accuracy}
    assert [flag.partition(":")[0] for flag in flags(given)] == (["target"] if doubted else [])

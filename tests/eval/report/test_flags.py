from dataclasses import replace
from pathlib import Path

import pytest

from splitleak.attacker.reconstruction import ATTACKS
from splitleak.eval.record.schema import FeaturesPlace, FigurePlace, Leakage, Provenance, parse_record
from splitleak.eval.report.claims import claims
from splitleak.eval.report.flags import cell_flags, doubts, record_flags
from splitleak.eval.report.results import Cell, Results, Row, TableRows

MODEL = {"architecture": "vgg11", "cut": 4, "width": 0.25, "channels": 1, "size": 8, "classes": 10}


def record(errors=(), mean_image=None, *, accuracy=0.9, **findings):
    """A record of an attack that says this of itself."""
    if errors:
        history = [{"loss": 1.0, "held_out_mse": error} for error in errors]
        findings |= {"history": history, "held_out_mse": min(errors), "mean_image_mse": mean_image or 1.0}
    return parse_record(document(findings=findings, accuracy=accuracy), source="test")


def document(attack="decoder", mse=0.02, *, findings=None, accuracy=0.9, defenses=(), sees="features", **more):
    stack = [{"name": each} if isinstance(each, str) else each for each in defenses]
    return {
        "version": 2,
        "kind": "victims",
        "id": "i",
        "target": {
            "name": "t",
            "design": {"model": MODEL, "defenses": stack},
            "dataset": {"dataset": "d"},
            "accuracy": accuracy,
            "provenance": {},
        },
        "attack": {"name": attack, "config": more.pop("config", {}), "findings": findings or {}, "provenance": {}},
        "threat_model": {"sees": sees, "views": more.pop("views", 1), "draws": more.pop("draws", 1)},
        "n": 1,
        "scores": {"mse": {"mean": mse}},
        "provenance": {},
        **more,
    }


def results(cells):
    """Results of these cells in one table."""
    rows = tuple(dict.fromkeys(cell.row for cell in cells))
    tables = (TableRows("T", "T", "", rows),)
    return Results("n", "n", "features", {}, tables, tuple(cells), Provenance(), Path())


def test_a_converged_attack_that_beats_the_mean_image_raises_no_doubt():
    assert record_flags(record([0.5, 0.2, 0.1, 0.1, 0.1])) == []


@pytest.mark.parametrize(("error", "doubted"), [(0.96, True), (0.94, False)])
def test_an_attack_hardly_better_than_the_mean_image_is_doubted(error, doubted):
    assert any(flag.startswith("mean image") for flag in record_flags(record([error] * 4))) == doubted


@pytest.mark.parametrize(("last", "doubted"), [(0.19, True), (0.199, False), (0.3, False)])
def test_an_attack_still_getting_better_at_its_end_is_doubted(last, doubted):
    found = record_flags(record([0.5, 0.4, 0.3, 0.2, last]))
    assert [flag.split(":")[0] for flag in found] == (["not converged"] if doubted else [])


@pytest.mark.parametrize(
    ("surer", "doubted"),
    [([0.1, 0.4, 0.7, 0.8], True), ([0.1, 0.6, 0.8, 0.82], False), ([0.1, 0.2, 0.3], False), ([], False)],
)
def test_a_search_that_ends_while_the_target_gets_surer_is_doubted(surer, doubted):
    search = record(history=[{"loss": 1.0, "confidence": each} for each in surer])
    assert [flag.split(":")[0] for flag in record_flags(search)] == (["not converged"] if doubted else [])


def test_each_stage_of_a_search_counts():
    """IF-GMI goes on from the latents into the blocks of the generator, each with a history of its own."""
    done, rising = ([{"confidence": each} for each in surer] for surer in ([0.8] * 4, [0.1, 0.4, 0.7, 0.8]))
    flagged = record_flags(record(history=done, **{"history_block-1": done, "history_block-2": rising}))
    assert [flag.split(":")[0] for flag in flagged] == ["not converged"]
    assert record_flags(record(history=done, **{"history_block-1": done})) == []


def test_the_last_quarter_of_a_search_is_what_counts():
    history = [{"confidence": each} for each in (0.0, 0.1, 0.6, 0.6, 0.79, 0.8, 0.8, 0.81)]
    assert record_flags(record(history=history)) == []


def test_the_last_tenth_of_the_epochs_is_what_counts():
    falling = [0.5 - 0.01 * epoch for epoch in range(20)]
    assert record_flags(record(falling))
    assert record_flags(record([*falling, *[0.31] * 5])) == []


def test_an_attack_that_reports_no_errors_raises_no_doubt():
    assert record_flags(record(steps=3)) == []
    assert record_flags(record(history=[{"loss": 1.0}])) == []


def test_one_epoch_is_too_few_to_tell():
    assert record_flags(record([0.2])) == []


@pytest.mark.parametrize(("norm", "doubted"), [(0.0, True), (1e-12, True), (1e-3, False)])
def test_a_gradient_that_does_not_reach_the_pixels_is_doubted(norm, doubted):
    found = record_flags(record(gradient_norm_start=norm))
    assert [flag.split(":")[0] for flag in found] == (["zero gradient"] if doubted else [])


@pytest.mark.parametrize(("chosen", "doubted"), [(5, True), (6, False)])
def test_an_attack_that_never_beat_its_own_start_is_doubted(chosen, doubted):
    found = record_flags(record(decoder_epochs=5, chosen_epoch=chosen))
    assert any(flag.startswith("start") for flag in found) == doubted
    assert record_flags(record(decoder_epochs=0, chosen_epoch=chosen)) == []


def test_messages_that_are_missing_in_the_capture_are_doubted():
    told = document()
    assert record_flags(parse_record(told, source="test")) == []
    told["threat_model"]["capture"] = {"gaps": 1, "lost": 0}
    (flag,) = record_flags(parse_record(told, source="test"))
    assert flag.startswith("capture: it tells of gaps")


def test_a_gradient_that_is_no_number_is_in_no_record():
    with pytest.raises(ValueError, match="gradient_norm_start"):
        record(gradient_norm_start=float("nan"))


def cell(
    attack="decoder", mse=0.02, *, target="t", views=1, defenses=(), estimate=None, knows=None, codec="fp32", **config
):
    """A cell of a campaign on features; ``attack`` is both the entry's name and the attack's."""
    method = f"M {codec}"
    place = FeaturesPlace(
        dataset="d", model="m", method=method, attack=attack, seed=0, views=views, target=target, codec=codec
    )
    made = document(attack, mse, defenses=defenses, views=views, config=config, findings=config.pop("findings", {}))
    made["threat_model"] |= knows or {}
    found = parse_record({**made, "cell": place.document()}, source="test")
    leakage = None if estimate is None else Leakage(mse_gaussian_estimate=estimate)
    return Cell("i", "T", Row(f"{method} of {target}"), attack, 0, place, record=found, leakage=leakage)


def kinds(cells):
    """Each flag's kind, and the attack it is about; None for a whole target."""
    found = cell_flags(results(cells))
    return [(None if whole else flagged.attack, flag.split(":")[0]) for flagged, flag, whole in found]


def test_doubts_about_single_records_are_told_of_their_cells():
    doubtful = cell(findings={"mean_image_mse": 0.1, "held_out_mse": 0.1})
    [(about, flag, whole)] = cell_flags(results([cell(target="fine"), doubtful]))
    assert (about, whole) == (doubtful, False)
    assert flag.startswith("mean image")


def test_a_randomised_defense_seen_once_is_doubted_until_one_attack_sees_more():
    noisy = {"defenses": ("bottleneck", "gaussian-noise")}
    assert kinds([cell(**noisy), cell("gan", **noisy)]) == [(None, "randomised")]
    assert kinds([cell(**noisy), cell("gan", views=8, **noisy)]) == []
    assert kinds([cell(**noisy), cell(views=8, target="another", **noisy)]) == [(None, "randomised")]
    assert kinds([cell(defenses=("bottleneck",))]) == []
    assert "gaussian-noise" in cell_flags(results([cell(**noisy)]))[0][1]


def test_rows_of_other_codecs_neither_raise_nor_silence_a_flag():
    """They have one target, but the attacker is let see other features."""
    noisy = {"defenses": ("bottleneck", "gaussian-noise")}
    assert kinds([cell(**noisy), cell(views=8, codec="uint8", **noisy)]) == [(None, "randomised")]
    floor, asked = cell("linear", 0.02, knows={"queries": 100}), {"queries": 100}
    assert kinds([floor, cell(mse=0.03, knows=asked, codec="int4")]) == []
    assert kinds([floor, cell(mse=0.03, knows=asked)]) == [("decoder", "linear")]
    assert kinds([cell(mse=0.02, codec="uint8"), cell("gan", 0.03, start="decoder", codec="int4")]) == []


def test_loose_records_of_two_targets_under_one_name_are_not_compared():
    def of(digest, mse, attack):
        made = document(attack, mse)
        made["target"]["digest"] = digest
        place = FeaturesPlace(dataset="d", model="m", method="t", attack=attack, seed=0, target="t")
        found = parse_record({**made, "cell": place.document()}, source="test")
        return Cell("i", "T", Row("t"), attack, 0, place, record=found)

    assert kinds([of("one", 0.02, "linear"), of("other", 0.03, "decoder")]) == []
    assert kinds([of("one", 0.02, "linear"), of("one", 0.03, "decoder")]) == [("decoder", "linear")]


@pytest.mark.parametrize(("white", "doubted"), [(0.03, True), (0.02, False), (0.01, False)])
def test_knowing_the_weights_and_doing_worse_is_doubted(monkeypatch, white, doubted):
    class WhiteBox(ATTACKS["decoder"]):
        needs = frozenset({"encoder"})

    monkeypatch.setitem(ATTACKS, "white", WhiteBox)
    records = [cell(mse=0.02), cell("unheard-of", 0.001), cell("white", white), cell("white", 0.5)]
    assert kinds(records) == ([(None, "white box")] if doubted else [])
    assert kinds(records[2:]) == []
    assert kinds([*records[1:], cell(mse=0.001, views=8)]) == []  # who sees a picture often may well do better


def test_a_score_below_the_estimate_is_doubted_and_one_at_it_is_not():
    assert kinds([cell(mse=0.019, estimate=0.02), cell("gan", 0.02, estimate=0.02)]) == [
        ("decoder", "below the estimate")
    ]
    assert kinds([cell(mse=0.019, views=8, estimate=0.02)]) == []  # many views have less noise than the estimate counts
    assert kinds([cell(mse=0.019)]) == []
    assert kinds([cell(mse=0.019, estimate=0.0)]) == []


@pytest.mark.parametrize(("mse", "doubted"), [(0.021, True), (0.0201, False), (0.01, False)])
def test_an_attack_weaker_than_the_one_it_starts_from_is_doubted(mse, doubted):
    found = kinds([cell(mse=0.02), cell("gan", mse, start="decoder")])
    assert found == ([("gan", "start")] if doubted else [])
    assert kinds([cell(mse=0.02), cell("gan", mse, start="scratch")]) == []
    assert kinds([cell(mse=0.02, views=4), cell("gan", mse, start="decoder")]) == []


@pytest.mark.parametrize(("mse", "doubted"), [(0.021, True), (0.0201, False), (0.01, False)])
def test_an_attack_weaker_than_linear_regression_is_doubted_if_it_knows_as_much(mse, doubted):
    floor, asked = cell("linear", 0.02, knows={"queries": 100}), {"queries": 100}
    found = kinds([floor, cell("decoder", mse, knows=asked)])
    assert found == ([("decoder", "linear")] if doubted else [])
    found = kinds([floor, cell("maximum-likelihood", mse, knows={"knowledge": ["encoder"]})])
    assert (("maximum-likelihood", "linear") in found) == doubted
    assert kinds([floor, cell("query-free", mse, knows={"knowledge": ["head"]})]) == []
    assert kinds([floor, cell("decoder", mse, knows=asked, views=4)]) == []
    near = cell("nearest", 0.02, knows={"queries": 100})
    assert kinds([near, cell("decoder", mse, knows=asked)]) == ([("decoder", "nearest")] if doubted else [])
    assert kinds([near, cell("linear", mse, knows=asked)]) == []


def test_a_finish_on_all_pairs_does_not_count_as_getting_better():
    falling = [{"loss": 1.0, "held_out_mse": 0.5 - 0.1 * epoch} for epoch in range(4)]
    assert record_flags(record(history=falling, held_out_mse=0.2)) != []
    assert record_flags(record(history=[*falling, {"loss": 1.0}], held_out_mse=0.2)) == []


@pytest.mark.parametrize(("queries", "doubted"), [(156, True), (157, False)])
def test_fewer_values_asked_for_than_weights_are_doubted(queries, doubted):
    about = document(findings={"parameters": 10_000})  # pictures have 8 x 8 values
    about["threat_model"]["queries"] = queries
    assert [flag.split(":")[0] for flag in record_flags(parse_record(about, source="test"))] == (
        ["few queries"] if doubted else []
    )
    about["threat_model"] |= {"queries": 64 * queries, "draws": 64}  # the same pictures, asked about again and again
    assert bool(record_flags(parse_record(about, source="test"))) == doubted


@pytest.mark.parametrize(("apart", "doubted"), [(10.1, True), (1.0, False)])
def test_public_images_unlike_the_victims_are_doubted(apart, doubted):
    assert [flag.split(":")[0] for flag in record_flags(record(captured_unlike=apart))] == (
        ["unlike"] if doubted else []
    )


def test_answers_asked_for_once_are_doubted_until_one_attack_draws_more():
    noisy = {"defenses": ("gaussian-noise",), "knows": {"knowledge": ["query"]}}
    assert kinds([cell(**noisy)]) == [(None, "randomised"), (None, "randomised")]
    more = {"knowledge": ["query"], "draws": 4}
    assert kinds([cell(**noisy), cell("gan", **{**noisy, "knows": more})]) == [(None, "randomised")]


@pytest.mark.parametrize(("seeds", "doubted"), [((0,), True), ((0, 1), False)])
def test_results_of_one_seed_are_doubted(seeds, doubted):
    cells = [replace(cell(), seed=seed) for seed in seeds]
    flags = [flag for flag, _ in doubts(replace(results(cells), config={"name": "n"}), [])]
    assert any(flag.startswith("one seed") for flag in flags) == doubted
    assert doubts(results(cells), []) == []


def test_seeds_that_are_planned_and_not_measured_do_not_count():
    cells = [cell(), *(replace(cell(), seed=seed, record=None) for seed in (1, 2))]
    [(flag, _)] = doubts(replace(results(cells), config={"name": "n"}), [])
    assert flag.startswith("one seed")


def prediction(attack="prediction-inversion", mse=0.02, *, constant=0.05, policy=None, draws=1, defenses=(), **more):
    """A cell of a campaign of predictions."""
    about = {"kind": "victims", "figure": "f", "row": "r", "dataset": "d", "seed": 0, "target": "t"}
    place = FigurePlace(**about, attack=attack, policy=policy or {}, purify=more.get("purify"))
    made = document(
        attack,
        mse,
        defenses=defenses,
        sees="scores",
        draws=draws,
        findings=more.get("findings"),
        cell=place.document(),
        constant_mse=constant,
        evaluator={"name": "E", "accuracy": more.get("evaluator", 0.95)},
    )
    return Cell("i", "f", Row("r"), None, 0, place, record=parse_record(made, source="test"))


def of_prediction(**given):
    return [flag.split(":")[0] for _, flag, _ in cell_flags(results([prediction(**given)]))]


def test_a_good_attack_on_predictions_raises_no_doubt():
    assert of_prediction() == []
    assert of_prediction(constant=None) == []
    assert of_prediction(policy={"top": 3, "rounding": 0.05}) == []


@pytest.mark.parametrize(("mse", "doubted"), [(0.048, True), (0.047, False)])
def test_pictures_no_closer_than_a_constant_are_doubted(mse, doubted):
    assert of_prediction(mse=mse) == (["constant picture"] if doubted else [])


def test_one_victim_is_not_held_against_itself():
    """Whose mean is the picture itself, to which nothing that is rebuilt comes closer."""
    assert of_prediction(mse=1e-4, constant=0.0) == []


@pytest.mark.parametrize(
    ("given", "doubted"),
    [
        ({"policy": {"sigma": 0.1}}, True),
        ({"policy": {"sigma": 0.1}, "draws": 4}, False),
        ({"policy": {"sigma": 0.1, "noise": "fixed"}}, False),
        ({"policy": {"noise": "fresh"}}, False),
        ({"defenses": ("gaussian-noise",)}, True),
        ({"defenses": ("bottleneck",)}, False),
        ({"defenses": ("mid",)}, False),
        ({"defenses": ({"name": "mid", "config": {"noise_at_test": True}},)}, True),
    ],
)
def test_a_service_that_draws_anew_asked_once_is_doubted(given, doubted):
    assert of_prediction(**given) == (["randomised"] if doubted else [])


def test_an_attack_that_runs_the_model_speaks_for_no_policy():
    assert of_prediction(attack="mi-face") == []
    [(about, flag, _)] = cell_flags(results([prediction("mi-face", policy={"sigma": 0.1}, purify={})]))
    assert about.row == Row("r")
    assert flag.startswith("white box: the attack runs the model itself, so sigma, purification is nothing to it")
    assert of_prediction(attack="mi-face", purify={}) == ["white box"]


@pytest.mark.parametrize(("mass", "doubted"), [(0.02, True), (0.01, False)])
def test_shared_scores_of_classes_never_seen_are_doubted(mass, doubted):
    assert of_prediction(findings={"mass_dropped": mass}) == (["unseen classes"] if doubted else [])


@pytest.mark.parametrize(("accuracy", "doubted"), [(0.899, True), (0.9, False)])
def test_an_evaluator_weaker_than_the_target_is_doubted(accuracy, doubted):
    assert of_prediction(evaluator=accuracy) == (["evaluator"] if doubted else [])


def test_what_is_doubted_of_any_attack_is_doubted_of_these():
    assert of_prediction(findings={"mean_image_mse": 0.1, "held_out_mse": 0.1}) == ["mean image"]


@pytest.mark.parametrize(("accuracy", "doubted"), [(0.19, True), (0.2, False)])
def test_a_target_hardly_better_than_chance_is_doubted(accuracy, doubted):
    found = record_flags(record([0.5, 0.5], accuracy=accuracy))
    assert [flag.partition(":")[0] for flag in found] == (["target"] if doubted else [])


@pytest.mark.parametrize(("accuracy", "doubted"), [(0.74, True), (0.98, False)])
def test_a_good_classifier_of_two_classes_is_not_doubted_for_their_chance(accuracy, doubted):
    of_two = document(accuracy=accuracy)
    of_two["target"]["design"]["model"] = {**MODEL, "classes": 2}
    found = record_flags(parse_record(of_two, source="test"))
    assert [flag.partition(":")[0] for flag in found] == (["target"] if doubted else [])


def test_a_doubt_is_told_once_with_all_its_places_and_seeds(fake_campaign):
    def constant(cell, figures):
        if cell["method"] == "PATROL" and cell["attack"] == "gan" and (cell["plus"] or cell["seed"]):
            figures["findings"] = {"mean_image_mse": 0.05, "held_out_mse": 0.05}

    found = doubts(Results.load(fake_campaign(constant)), [])
    [about] = [where for flag, where in found if flag.startswith("mean image")]
    assert about == "PATROL, gan (seed 1); PATROL + CEM, gan (seed 0, 1)"
    [random] = [
        where for flag, where in found if "gaussian-noise" in flag and "dropout" not in flag and "cem" not in flag
    ]
    assert random.startswith("DistCorr (seed 0, 1); ")


def test_claims_of_one_seed_or_within_their_error_are_doubted(fake_predictions):
    def worse_once(record):
        if (record["cell"]["row"], record["cell"]["seed"]) == ("m = 3", 1):
            record["scores"]["mse"]["mean"] = 0.0311

    claim = {"text": "more is better", "figure": "truncation", "metric": "mse", "lower": "m = 3", "higher": "m = 1"}
    for seeds, told in (((0, 1), "cannot be told from 2 seeds"), ((0,), "one seed")):
        found = Results.load(fake_predictions(change=worse_once, seeds=seeds, claims=[claim]))
        [(flag, about)] = [(flag, about) for flag, about in doubts(found, claims(found)) if about != found.name]
        assert told in flag
        assert about == f"more is better (seed {', '.join(map(str, seeds))})"


def test_what_was_doubted_of_recorded_results_stays_doubted():
    recorded = Results("n", "n", "features", {}, (), (), Provenance(), Path(), doubts=(("flag: why", "PATROL"),))
    assert doubts(recorded, []) == [("flag: why", "PATROL")]

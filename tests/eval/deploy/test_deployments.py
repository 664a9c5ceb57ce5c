"""Candidates are means over seeds of what was measured, under the attack that came closest; and no more than that."""

from dataclasses import replace
from pathlib import Path

import pytest

from splitleak.artifacts import write_json
from splitleak.config import read_document
from splitleak.defenses.importing import OWN_ANSWER
from splitleak.eval.deploy.deployments import deployments, read_latency, read_results
from splitleak.eval.report.report import write_report
from splitleak.eval.report.results import Results
from tests.eval.conftest import gan_where_less_leaks


def latency(*cells):
    return {"emulated_device": None, "cells": [cell(*each) for each in cells]}


def cell(target, codec, total_ms, sent=500.0, link="loopback", batch=1, engine="onnx"):
    about = {"way": "split", "window": 1, "edge_engine": engine, "cloud_engine": engine}
    parts = {"total_ms": {"p50": total_ms}}
    return {
        **about,
        "target": target,
        "codec": codec,
        "link": link,
        "batch": batch,
        "bytes_per_image": sent,
        "parts": parts,
    }


@pytest.fixture
def measured(fake_campaign):
    """``measured(change, ...)``: the records of a made-up campaign."""

    def make(change=lambda cell, figures: None, **options):
        return read_results([fake_campaign(change, **options)])

    return make


def by_design(found):
    return {(each.design, each.codec): each for each in found}


def test_the_strongest_attack_is_the_one_with_the_lowest_error(measured):
    def gan_is_closer(cell, figures):
        if cell["attack"] == "gan":
            figures["mse"] /= 2

    found = by_design(deployments(measured(gan_is_closer, methods=("PATROL",)), None, None))
    alone = found["PATROL", "fp32"]
    assert (alone.attack, alone.attacks, alone.seeds) == ("gan", ("decoder", "gan"), 2)
    assert alone.mse == pytest.approx((0.04 + 0.0401) / 4)
    assert alone.randomised
    assert not alone.adaptive


def test_pictures_too_small_for_ssim_have_none(measured):
    small = measured(lambda cell, figures: figures.update(ssim=None), methods=("PATROL",))
    assert {option.ssim for option in deployments(small, None, None)} == {None}


@pytest.mark.parametrize(("attack", "uses"), [("linear", False), ("maximum-likelihood", True), ("of a plug-in", True)])
def test_an_attack_that_was_given_the_weights_and_uses_none_of_them_is_no_white_box(measured, attack, uses):
    def given(run):
        threat = run.record.threat_model.model_copy(update={"knowledge": ("encoder", "public", "query")})
        of = run.record.attack.model_copy(update={"name": attack})
        return replace(run, record=run.record.model_copy(update={"threat_model": threat, "attack": of}))

    found = deployments([given(run) for run in measured(methods=("PATROL",))], None, None)
    assert {(option.knowledge, option.white_box) for option in found} == {(("encoder", "public", "query"), uses)}


def test_a_seed_counts_once_for_the_accuracy_however_many_attacks_it_had(measured):
    def gan_on_one_seed(cell, figures):
        figures["accuracy"] = 0.9 if cell["seed"] else 0.8
        if cell["attack"] == "gan":
            figures["mse"] /= 2
            return cell["seed"] == 0
        return None

    found = by_design(deployments(measured(gan_on_one_seed, methods=("PATROL",)), None, None))
    alone = found["PATROL", "fp32"]
    assert alone.accuracy == pytest.approx(85)
    assert (alone.attack, alone.partly, alone.seeds, len(alone.targets)) == ("gan or decoder", ("gan",), 2, 2)


def test_each_target_counts_with_the_strongest_attack_on_it(measured):
    found = by_design(deployments(measured(gan_where_less_leaks, methods=("PATROL",)), None, None))
    assert found["PATROL", "fp32"].mse == pytest.approx((0.01 + 0.04) / 2)


def test_the_accuracy_drop_is_from_the_most_accurate_if_none_is_undefended(measured):
    found = by_design(deployments(measured(methods=("PATROL",)), None, None))
    assert found["PATROL", "fp32"].drop == 0
    assert found["PATROL + CEM", "fp32"].drop == pytest.approx(0.3)


def test_accuracy_of_a_codec_is_corrected_by_its_change_on_the_wire(measured):
    made = measured(methods=("Bottleneck", "DistCorr"), codecs={"DistCorr": "uint8"}, seeds=(0,))
    for place, each in enumerate(made):
        target = each.record.target.model_copy(update={"name": f"same {each.design.endswith('CEM')}"})
        wire = each.record.wire.model_copy(update={"accuracy": 0.85 if each.codec == "uint8" else 0.88})
        made[place] = replace(each, record=each.record.model_copy(update={"target": target, "wire": wire}))
    found = by_design(deployments(made, None, None))
    assert found["DistCorr", "uint8"].accuracy == pytest.approx(90 - 3)
    assert found["Bottleneck", "fp32"].accuracy == pytest.approx(90)


def test_runs_of_one_attack_that_saw_or_were_set_to_something_else_are_not_averaged(measured):
    def loose(run, name="decoder", views=1, epochs=10, seed=0, mse=0.02):
        record = run.record
        score = record.scores["mse"].model_copy(update={"mean": mse})
        attack = record.attack.model_copy(
            update={"name": name, "seed": seed, "config": {"epochs": epochs, "seed": seed}}
        )
        changed = {
            "cell": None,
            "attack": attack,
            "threat_model": record.threat_model.model_copy(update={"views": views}),
            "scores": {**record.scores, "mse": score},
        }
        return replace(run, record=record.model_copy(update=changed))

    run = measured(methods=("PATROL",), seeds=(0,))[0]
    often = [loose(run, views=16, seed=seed, mse=mse) for seed, mse in ((0, 0.003), (1, 0.005))]
    (found,) = deployments([loose(run), *often, loose(run, name="gan", mse=0.03)], None, None)
    assert (found.mse, found.attack, found.attacks) == (pytest.approx(0.004), "decoder", ("decoder", "gan"))
    (longer,) = deployments([loose(run), loose(run, epochs=100, mse=0.01)], None, None)
    assert longer.mse == pytest.approx(0.01)


def test_what_an_attack_asked_and_was_set_to_is_told_but_for_its_seed(measured):
    run = next(run for run in measured(methods=("PATROL",), seeds=(0,)) if run.record.cell.attack == "decoder")

    def efforts(epochs=10, queries=100, seed=0):
        attack = run.record.attack.model_copy(update={"config": {"epochs": epochs, "seed": seed}, "seed": seed})
        model = run.record.threat_model.model_copy(update={"queries": queries})
        changed = run.record.model_copy(update={"attack": attack, "threat_model": model})
        [found] = deployments([replace(run, record=changed)], None, None)
        return found.efforts

    assert efforts(seed=1) == efforts()
    assert len({efforts(), efforts(epochs=20), efforts(queries=200)}) == 3


def test_columns_of_two_campaigns_under_one_name_are_not_averaged(measured):
    """Each has a decoder, of other settings: the strongest attack is one of them, not something between."""

    def of_campaign(run, epochs, mse):
        attack = run.record.attack.model_copy(update={"config": {"epochs": epochs}})
        scores = {**run.record.scores, "mse": run.record.scores["mse"].model_copy(update={"mean": mse})}
        return replace(run, record=run.record.model_copy(update={"attack": attack, "scores": scores}))

    runs = [run for run in measured(methods=("PATROL",)) if (run.design, run.record.cell.attack) == ("PATROL", "gan")]
    assert {run.seed for run in runs} == {0, 1}
    short, long = ([of_campaign(run, *settings) for run in runs] for settings in ((2, 0.03), (20, 0.01)))
    (found,) = deployments([*short, *long], None, None)
    assert (found.mse, found.attack, found.attacks, found.seeds) == (pytest.approx(0.01), "gan", ("gan",), 2)


def test_targets_of_splits_of_other_sizes_are_not_averaged(measured):
    runs = [run for run in measured(methods=("PATROL",)) if run.design == "PATROL"]

    def of_split(run, **split):
        dataset = run.record.target.dataset.model_copy(update={"config": split})
        target = run.record.target.model_copy(update={"dataset": dataset})
        return replace(run, record=run.record.model_copy(update={"target": target}))

    assert len(deployments([of_split(run, seed=run.seed, train=500) for run in runs], None, None)) == 1
    with pytest.raises(ValueError, match="one split, under the name 'PATROL', got 2"):
        deployments([of_split(run, seed=0, train=500 + 500 * run.seed) for run in runs], None, None)


def test_loose_records_below_a_folder_are_told_apart_by_what_their_attacks_saw(fake_record, tmp_path):
    about = {"dataset": "builtin", "model": "vgg", "method": "Bottleneck", "plus": None, "seed": 0, "target": "t"}
    for views, mse in ((1, 0.02), (16, 0.004)):
        record = fake_record({**about, "id": f"r{views}", "attack": "decoder", "views": views}, mse)
        record.model_copy(update={"cell": None}).write(tmp_path / "run" / f"{views}" / "record.json")
    (found,) = deployments(read_results([tmp_path / "run"]), None, None)
    assert found.mse == pytest.approx(0.004)


def test_loose_records_of_another_codec_are_another_candidate(fake_record, tmp_path):
    """Of one target, by one attack: what was sent as uint8 was averaged with what was sent whole."""
    about = {"dataset": "builtin", "model": "vgg", "method": "Bottleneck", "plus": None, "seed": 0, "target": "t"}
    for codec, mse, sent in ((None, 0.02, 2000.0), ("uint8", 0.04, 600.0)):
        record = fake_record({**about, "id": f"r-{codec}", "attack": "decoder", "views": 1}, mse, sent=sent)
        wire = record.wire.model_copy(update={"codec": codec})
        changed = record.model_copy(update={"cell": None, "wire": wire})
        changed.write(tmp_path / "run" / f"{codec}" / "record.json")
    found = {each.codec: each for each in deployments(read_results([tmp_path / "run"]), None, None)}
    assert {codec: (each.mse, each.bytes_per_image) for codec, each in found.items()} == {
        "fp32": (pytest.approx(0.02), 2000),
        "uint8": (pytest.approx(0.04), 600),
    }
    assert [row.label for row in Results.load(tmp_path / "run").tables[0].rows] == ["t", "t, uint8"]


def test_latency_is_the_mean_over_targets_of_the_fastest_engine_of_each(measured):
    timed = latency(
        ("PATROL0", "fp32", 4.0), ("PATROL1", "fp32", 2.0), ("PATROL1", "fp32", 3.0, 500.0, "loopback", 1, "torch")
    )
    alone = by_design(deployments(measured(methods=("PATROL",)), timed, None))["PATROL", "fp32"]
    assert (alone.latency_ms, alone.engine) == (3.0, "onnx → onnx")


def test_latency_is_that_of_the_fastest_engine_of_a_target_of_any_seed(measured):
    timed = latency(("PATROL1", "fp32", 3.0, 500.0, "loopback", 1, "torch"), ("PATROL1", "fp32", 2.0))
    found = by_design(deployments(measured(methods=("PATROL",)), timed, None))
    assert (found["PATROL", "fp32"].latency_ms, found["PATROL", "fp32"].engine) == (2.0, "onnx → onnx")
    assert found["PATROL + CEM", "fp32"].latency_ms is None


def test_a_codec_that_was_only_timed_is_assumed_to_leak_as_fp32_does(measured):
    timed = latency(("PATROL0", "fp32", 2.0), ("PATROL0", "uint8", 2.5, 130.0))
    found = by_design(deployments(measured(methods=("PATROL",)), timed, None))
    plain, assumed = found["PATROL", "fp32"], found["PATROL", "uint8"]
    assert (assumed.assumed, plain.assumed) == (True, False)
    assert (assumed.mse, assumed.accuracy, assumed.bytes_per_image) == (plain.mse, plain.accuracy, 130.0)


def test_one_link_is_chosen_and_only_the_smallest_batch_counts(measured):
    made = measured(methods=("PATROL",))
    several = latency(
        ("PATROL0", "fp32", 2.0), ("PATROL0", "fp32", 70.0, 500.0, "lte"), ("PATROL0", "fp32", 1.0, 500.0, "lte", 8)
    )
    with pytest.raises(ValueError, match=r"expected --link, one of \['loopback', 'lte'\]"):
        deployments(made, several, None)
    with pytest.raises(ValueError, match="got 'geo'"):
        deployments(made, several, "geo")
    assert by_design(deployments(made, several, "lte"))["PATROL", "fp32"].latency_ms == 70.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cells": None}, "cells: Input should be a valid (tuple|array|list)"),
        ({"cells": [{"way": "split"}]}, "cells.0.window: Field required"),
        ({"emulated_device": 3}, "emulated_device"),
    ],
)
def test_what_is_no_latency_record_is_refused_in_one_line_that_names_it(tmp_path, change, said):
    path = tmp_path / "latency.json"
    write_json(path, latency(("PATROL0", "fp32", 2.0)))
    assert read_latency(path)["cells"]
    write_json(path, {**latency(), **change})
    with pytest.raises(ValueError, match=rf"latency\.json: .*{said}") as caught:
        read_latency(path)
    assert "\n" not in str(caught.value)
    write_json(path, {"targets": {}})
    with pytest.raises(ValueError, match=r"latency\.json: .*old form"):
        read_latency(path)


def test_what_is_split_has_a_link_and_what_is_all_on_the_device_has_none(tmp_path):
    path = tmp_path / "latency.json"
    alone = {**cell("a", None, 3.0, link=None), "way": "device", "window": None}
    write_json(path, {"emulated_device": None, "cells": [cell("a", "fp32", 2.0), alone]})
    assert len(read_latency(path)["cells"]) == 2
    write_json(path, {"emulated_device": None, "cells": [cell("a", "fp32", 2.0, link=None)]})
    with pytest.raises(ValueError, match=r"latency\.json: .*expected the window, the link and the codec"):
        read_latency(path)


def test_results_on_several_data_sets_are_not_mixed(measured, fake_campaign, tmp_path):
    measured(methods=("PATROL",), seeds=(0,))
    folder = tmp_path / "campaign"
    path = next(iter(sorted(folder.rglob("record.json"))))
    record = read_document(path)
    record["target"]["dataset"]["dataset"] = "other"
    write_json(path, record)
    with pytest.raises(ValueError, match=r"one data set, got \['builtin', 'other'\]"):
        read_results([folder])
    assert {each.dataset for each in read_results([folder], "builtin")} == {"builtin"}
    with pytest.raises(ValueError, match="results on third"):
        read_results([folder], "third")


@pytest.mark.parametrize(
    ("rows", "saw"),
    [
        ({"m = 1": {"share": 1}}, "scores"),
        ({"pictured": {"kind": "classes", "attack": "gmi"}}, "nothing"),
    ],
)
def test_records_of_another_threat_model_are_refused_by_what_was_seen(fake_predictions, rows, saw):
    folder = fake_predictions({"f": rows}, seeds=(0,))
    said = rf"expected records of attackers who saw features alone, got one that saw {saw} \({next(iter(rows))}, seed 0"
    with pytest.raises(ValueError, match=said):
        read_results([folder])


@pytest.mark.slow
def test_accuracies_by_labels_and_by_a_networks_own_answers_are_not_mixed(measured, tmp_path):
    measured(methods=("PATROL",), seeds=(0,))
    path = next(iter(sorted((tmp_path / "campaign").rglob("record.json"))))
    record = read_document(path)
    record["target"]["right_answer"] = OWN_ANSWER
    write_json(path, record)
    with pytest.raises(ValueError, match=r"by one kind of right answer, which alone compare, got .*labels"):
        read_results([tmp_path / "campaign"])


def test_recorded_results_are_weighed_as_the_run_is(fake_campaign, tmp_path, undrawn):
    folder = fake_campaign(methods=("PATROL",))
    write_report(folder, tmp_path / "report")
    run, recorded = (deployments(read_results([each]), None, None) for each in (folder, tmp_path / "report"))
    assert recorded == run
    shipped = read_results([Path(__file__).parents[3] / "eval" / "results" / "cem_small"])
    assert len(by_design(deployments(shipped, None, None))) == 14


def test_a_record_does_not_count_twice(fake_campaign, tmp_path, undrawn):
    folder = fake_campaign(methods=("PATROL",))
    with pytest.raises(ValueError, match=r"expected different folders of results, got .* twice"):
        read_results([folder, folder])
    write_report(folder, tmp_path / "report")
    for other in (tmp_path / "report", folder / "cells"):
        with pytest.raises(ValueError, match=rf"expected each record once, got .* in {folder} and in {other}"):
            read_results([folder, other])


def test_two_designs_under_one_name_are_refused(measured):
    made = measured(methods=("PATROL",))
    one = made[0]
    design = one.record.target.design
    wider = design.model_copy(update={"model": design.model.model_copy(update={"width": 0.5})})
    target = one.record.target.model_copy(update={"design": wider})
    made[0] = replace(one, record=one.record.model_copy(update={"target": target}))
    with pytest.raises(ValueError, match=r"expected records of one target design, .* under the name 'PATROL', got 2"):
        deployments(made, None, None)


def test_records_that_tell_of_no_wire_are_refused_by_their_design(measured):
    """They ended in the words of a mean of nothing."""
    made = [replace(run, record=run.record.model_copy(update={"wire": None})) for run in measured(methods=("PATROL",))]
    with pytest.raises(ValueError, match="expected records of 'PATROL' that tell what was sent"):
        deployments(made, None, None)


def test_another_seed_is_no_other_design(measured):
    made = measured(methods=("PATROL",))
    assert {each.seed for each in made} == {0, 1}
    assert by_design(deployments(made, None, None))["PATROL", "fp32"].seeds == 2


def test_designs_of_several_tables_are_told_apart_by_their_table(fake_campaign):
    folder = fake_campaign(methods=("PATROL",), seeds=(0,))
    plan = read_document(folder / "campaign.json")
    for cell in plan["cells"]:
        cell["model"] = "wide" if cell["attack"] == "gan" else "vgg"
    write_json(folder / "campaign.json", plan)
    assert {each.design for each in read_results([folder])} == {
        f"PATROL{plus} (builtin, {model})" for plus in ("", " + CEM") for model in ("vgg", "wide")
    }


def test_a_run_like_the_demos_is_read_record_by_record(materials, artifact, tmp_path):
    from splitleak.eval.record.victims import make_record

    folder = materials("recommended", 0.2)
    make_record(artifact, folder / "attack", folder / "victims.npz", folder / "ledger.json", tmp_path / "cell", 0)
    (one,) = deployments(read_results([tmp_path]), None, None)
    assert (one.design, one.cut, one.codec, one.drop, one.victims) == ("toy", 2, "fp32", 0.0, 40)
    assert one.mse > 0


def of_runs(fake_record, folder, *runs):
    """The one candidate of loose records of a target's name: seed of the target, attack, its seed, error, images."""
    about = {"dataset": "builtin", "model": "vgg", "method": "Bottleneck", "plus": None, "target": "t", "views": 1}
    for order, (trained, attack, seed, mse, public) in enumerate(runs):
        record = fake_record({**about, "id": f"r{order}", "seed": trained, "attack": attack}, mse)
        run = record.attack.model_copy(update={"seed": seed})
        changed = {"cell": None, "attack": run, "images": {"public": public}}
        record.model_copy(update=changed).write(folder / f"{order}" / "record.json")
    (found,) = deployments(read_results([folder]), None, None)
    return found


def test_an_attack_of_another_seed_does_not_weaken_the_strongest(fake_record, tmp_path):
    """The best of each seed of the attacks were averaged: the weak one's second run with the strong one."""
    runs = ((0, "decoder", 0, 0.05, "a"), (0, "decoder", 1, 0.07, "a"), (0, "gan", 0, 0.01, "a"))
    found = of_runs(fake_record, tmp_path, *runs)
    assert (found.mse, found.attack, found.seeds) == (pytest.approx(0.01), "gan", 1)


def test_runs_of_an_attack_with_other_pictures_are_not_averaged(fake_record, tmp_path):
    found = of_runs(fake_record, tmp_path, (0, "decoder", 0, 0.05, "a"), (0, "decoder", 1, 0.01, "b"))
    assert found.mse == pytest.approx(0.01)


def test_targets_of_one_name_and_several_seeds_are_averaged(fake_record, tmp_path):
    """Each was attacked with the attack's own default seed: the least of all was told, as of one seed."""
    found = of_runs(fake_record, tmp_path, *((seed, "decoder", 0, 0.01 + 0.02 * seed, "a") for seed in range(3)))
    assert (found.mse, found.seeds) == (pytest.approx(0.03), 3)

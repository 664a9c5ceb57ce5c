import copy
from pathlib import Path
from types import SimpleNamespace

import pytest

from splitleak.config import read_document
from splitleak.eval.campaign.classes.config import ClassCampaign
from splitleak.eval.campaign.classes.plan import make_class_plan

CAMPAIGNS = Path(__file__).parents[4] / "eval" / "campaigns"
DOCUMENT = {
    "kind": "classes",
    "name": "tiny",
    "seeds": [0, 1],
    "datasets": [{"name": "images", "channels": 1}],
    "model": {"name": "small", "architecture": "conv3", "width": 0.1},
    "evaluator": {"name": "judge", "architecture": "cnn"},
    "targets": [{"name": "none"}, {"name": "frozen", "defenses": [{"name": "transfer", "frozen": 1}]}],
    "attacks": [
        {"name": "GMI", "attack": "gmi"},
        {"name": "PPA", "attack": "ppa", "targets": ["none"]},
    ],
    "private": [{"name": "same"}, {"name": "others", "classes": 5, "auxiliary": "generic", "attacks": ["GMI"]}],
    "pretraining": {"data": "photographs"},
}
ALL = {
    "robustness": {"images": 10},
    "training_time": {},
    "extraction": {"attacks": ["GMI", "PPA"]},
    "backdoors": [{"fraction": 0.05}, {"trigger": "blended"}],
}


def load(**changes):
    return ClassCampaign.load({**copy.deepcopy(DOCUMENT), **changes}, source="test.toml")


def plan(**changes):
    return make_class_plan(load(**changes))


def test_what_is_asked_beside_the_attacks_changes_no_id_of_the_jobs_there_were():
    before, after = plan(), plan(besides=ALL)
    assert {job.id for job in before.jobs} < {job.id for job in after.jobs}
    assert before.cells_in_order == after.cells_in_order
    assert "besides" not in before.document()


def test_more_of_it_changes_no_id_of_what_there_was_of_it():
    few, more = plan(besides={"robustness": ALL["robustness"]}), plan(besides=ALL)
    assert {job.id for job in few.jobs} < {job.id for job in more.jobs}


def test_a_training_is_timed_anew_where_code_of_ones_own_that_it_is_of_was_edited(monkeypatch):
    def ids(code):
        mine = SimpleNamespace(name="mine:Mine", code_digest=lambda: code)
        monkeypatch.setattr("splitleak.eval.campaign.config.plugins_of", lambda *given: [mine])
        return {job.id for job in plan(besides=ALL).jobs if job.settings.get("measure") == "training time"}

    assert ids("first") == ids("first")
    assert not ids("first") & ids("second")


def test_needs_come_before_those_who_need_them_and_a_seed_before_the_next():
    made, seen = plan(besides=ALL), set()
    for job in made.jobs:
        assert set(job.needs) <= seen
        seen.add(job.id)
    seeds = [job.seed for job in made.jobs]
    assert seeds == sorted(seeds)


def test_every_target_on_the_first_setting_is_measured_under_every_seed():
    places = plan(besides=ALL).document()["besides"]
    of = {(place["measure"], place["target"], place.get("of")) for place in places if place["seed"] == 1}
    both = [("target", None), ("robustness", None), ("backdoor", "badnets 5 %"), ("backdoor", "blended 1 %")]
    both += [("training time", None), ("extraction", "GMI")]
    expected = {(measure, target, of) for measure, of in both for target in ("none", "frozen")}
    assert of == expected | {("extraction", "none", "PPA")}
    assert len(places) == 2 * len(of)


def test_a_target_with_a_backdoor_differs_from_its_twin_in_its_images_alone():
    jobs = {job.id: job for job in plan(besides=ALL).jobs}
    poison = next(job for job in jobs.values() if job.kind == "poison")
    twins = [
        job for job in jobs.values() if job.kind == "train" and job.settings["images"] == poison.settings["folder"]
    ]
    assert len(twins) == 2
    clean = [
        job for job in jobs.values() if job.kind == "train" and job.settings["images"] == poison.settings["images"]
    ]
    for twin in twins:
        assert any(twin.settings == {**job.settings, "images": twin.settings["images"]} for job in clean)
        assert poison.id in twin.needs


def test_a_student_waits_for_the_pictures_of_its_cell():
    made = plan(besides=ALL)
    cells = {job.id: job for job in made.cells}
    students = [job for job in made.jobs if job.settings.get("measure") == "extraction"]
    assert len(students) == 6
    for job in students:
        (cell,) = set(job.needs) & set(cells)
        assert job.settings["attacked"] == f"cells/{cells[cell].key}/attack"


def test_a_campaign_may_have_no_attacks_where_it_measures_its_targets():
    alone = {"attacks": [], "private": [{"name": "same"}], "evaluator": None}
    made = plan(**alone, besides={"backdoors": [{}]})
    assert {job.kind for job in made.jobs} == {"split", "train", "poison", "besides"}
    assert made.document()["cells"] == []
    with pytest.raises(ValueError, match="expected attacks, or a table"):
        load(**alone)
    with pytest.raises(ValueError, match="expected an evaluator"):
        load(evaluator=None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": 2 * DOCUMENT["targets"], "besides": {}}, "expected every target to have a name of its own"),
        ({"besides": {"extraction": {"attacks": ["GAN"]}}}, "expected names of GMI, PPA in extraction, got GAN"),
        ({"targets": DOCUMENT["targets"][1:], "besides": {"training_time": {}}}, "expected a target without defenses"),
        (
            {
                "attacks": [],
                "private": [{"name": "same"}],
                "besides": {},
                "targets": [{"name": "a b", "defenses": [{"name": "low-rank", "rank": 10_000}]}],
            },
            "target 'a b'",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, said):
    document = {**copy.deepcopy(DOCUMENT), **changes}
    if "targets" in changes:
        document["attacks"] = [each for each in document["attacks"] if not each.get("targets")]
    with pytest.raises(ValueError, match=said):
        ClassCampaign.load(document, source="test.toml")


def test_what_it_writes_of_itself_reads_as_the_same_campaign():
    config = load(besides=ALL)
    assert ClassCampaign.load(config.document(), source="again") == config


def test_the_campaign_of_backdoors_has_the_targets_of_that_of_attacks():
    small, besides = (read_document(CAMPAIGNS / f"{name}.toml") for name in ("classes_small", "classes_besides"))
    for key in ("split", "datasets", "model", "training", "pretraining"):
        assert besides[key] == small[key]
    wanted, made = ([(each["name"], each.get("defenses")) for each in file["targets"]] for file in (small, besides))
    assert made == wanted
    kinds = {job.kind for job in make_class_plan(ClassCampaign.load(besides, source="classes_besides.toml")).jobs}
    assert kinds == {"split", "train", "poison", "besides"}

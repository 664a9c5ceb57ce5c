import copy

from splitleak.cloud.policy import PolicyConfig
from splitleak.eval.campaign.predictions.config import PredictionCampaign
from splitleak.eval.campaign.predictions.plan import make_prediction_plan

DOCUMENT = {
    "kind": "predictions",
    "name": "tiny",
    "seeds": [0],
    "datasets": [{"name": "images", "channels": 1}],
    "model": {"name": "small", "architecture": "conv3", "width": 0.1},
    "evaluator": {"name": "judge", "architecture": "cnn"},
}


def plan(*rows, **changes):
    figures = [{"name": "one", "title": "One", "rows": list(rows)}]
    return make_prediction_plan(
        PredictionCampaign.load({**copy.deepcopy(DOCUMENT), "figures": figures, **changes}, source="test")
    )


def of_kind(made, kind):
    return [job for job in made.jobs if job.kind == kind]


def test_needs_come_before_those_who_need_them():
    made = plan(
        {"name": "a", "auxiliary": "distinct"},
        {"name": "b", "purify": {}},
        {"name": "c", "classes": 5, "auxiliary": "generic"},
        seeds=[0, 1],
    )
    seen = set()
    for job in made.jobs:
        assert set(job.needs) <= seen
        seen.add(job.id)


def test_rows_of_one_service_share_its_target_its_evaluator_and_its_queries():
    made = plan({"name": "a", "share": 1}, {"name": "b", "share": 3}, {"name": "c", "settings": {"align": False}})
    assert [len(of_kind(made, kind)) for kind in ("split", "train", "predict", "cell")] == [1, 2, 1, 3]
    (predict,) = of_kind(made, "predict")
    assert predict.settings["shares"] == [0, 1, 3]


def test_equal_rows_of_two_figures_are_one_cell_that_stands_in_both():
    figures = [{"name": name, "title": name, "rows": [{"name": f"full {name}"}]} for name in ("one", "two")]
    made = plan(figures=figures)
    assert len(made.cells) == 1
    assert [(cell["figure"], cell["row"]) for cell in made.document()["cells"]] == [
        ("one", "full one"),
        ("two", "full two"),
    ]
    assert len({cell["id"] for cell in made.document()["cells"]}) == 1


def test_adding_a_row_leaves_the_cells_there_are():
    few = plan({"name": "a", "share": 1})
    more = plan({"name": "a", "share": 1}, {"name": "b", "share": 3}, {"name": "c", "auxiliary": "distinct"})
    assert {cell.id for cell in few.cells} < {cell.id for cell in more.cells}


def test_a_white_box_attack_is_one_cell_whatever_the_service_lets_out():
    row = {"attack": "mi-face"}
    made = plan({"name": "open", **row}, {"name": "label", **row, "policy": {"label_only": True}})
    assert len(made.cells) == 1
    assert of_kind(made, "predict") == []


def test_each_auxiliary_set_is_a_file_of_its_own_that_holds_no_victim():
    names = {"same": "public.npz", "generic": "generic.npz", "training": "train.npz", "distinct": "public.npz"}
    made = plan(*({"name": kind, "classes": 5, "auxiliary": kind} for kind in names))
    for cell in made.cells:
        kind = cell.settings["auxiliary"]
        folder, _, file = cell.settings["auxiliary_images"].rpartition("/")
        assert file == names[kind]
        assert (folder == cell.settings["images"]) == (kind != "distinct")


def test_what_asks_the_service_itself_is_a_cell_of_its_own_for_each_policy_and_purifier():
    row = {"attack": "mirror-genetic"}
    made = plan(
        {"name": "open", **row}, {"name": "three", **row, "policy": {"top": 3}}, {"name": "pure", **row, "purify": {}}
    )
    opened, three, pure = made.cells
    [purify] = of_kind(made, "purify")
    assert (three.settings["policy"]["top"], pure.settings["purifier"]) == (3, purify.output)
    assert purify.id in pure.needs
    assert "purifier" not in opened.settings


def test_of_a_service_that_rounds_or_cuts_scores_who_needs_labels_hears_no_more():
    made = plan({"name": "labels", "attack": "brep-mi", "policy": {"top": 3}}, {"name": "open", "attack": "brep-mi"})
    told = [PolicyConfig.parse(cell.settings["policy"], source="policy") for cell in made.cells]
    assert told == [PolicyConfig(top=3), PolicyConfig(label_only=True)]


def test_images_of_another_data_set_are_there_before_whoever_learns_from_them():
    for attack in ("gmi", "public-by-scores", "brep-mi", "class-inference"):
        made = plan({"name": "other", "auxiliary": "distinct", "attack": attack})
        [distinct] = [job for job in of_kind(made, "split") if "distinct" in job.output]
        jobs = {job.id: job for job in made.jobs}
        reads = [job for job in made.jobs if distinct.settings["folder"] in str(job.settings.get("public", ""))]
        reads += [job for job in made.cells if "public" in job.settings["needs"]]
        assert reads
        for job in reads:
            assert distinct.id in {*job.needs, *(name for need in job.needs for name in jobs[need].needs)}

import copy
from pathlib import Path

import pytest

from splitleak.config import read_document
from splitleak.eval.campaign.predictions.config import PredictionCampaign

FILE = Path(__file__).parents[4] / "eval" / "campaigns" / "truncation_small.toml"
DOCUMENT = {
    "kind": "predictions",
    "name": "tiny",
    "seeds": [0],
    "datasets": [{"name": "images", "channels": 1}],
    "model": {"name": "small", "architecture": "conv3", "width": 0.1},
    "evaluator": {"name": "judge", "architecture": "cnn"},
    "figures": [{"name": "one", "title": "One", "rows": [{"name": "full"}, {"name": "three", "share": 3}]}],
}


def load(**changes):
    return PredictionCampaign.load({**copy.deepcopy(DOCUMENT), **changes}, source="test.toml")


def with_row(**row):
    return load(figures=[{"name": "one", "title": "One", "rows": [{"name": "row", **row}]}])


def test_the_shipped_campaign_can_be_run_and_names_its_rows():
    config = PredictionCampaign.load(read_document(FILE), source=str(FILE))
    columns, *rows = config.overview()
    assert len({row[:2] for row in rows}) == len(rows) == sum(len(figure.rows) for figure in config.figures)
    assert {len(row) for row in rows} == {len(columns)}


def test_the_evaluator_shares_neither_architecture_nor_seed_with_the_target():
    config = load()
    _, row = next(config.rows())
    target, judge = config.target(row, 3), config.evaluator_target(3)
    assert target["model"]["architecture"] != judge["model"]["architecture"]
    assert target["seed"] != judge["seed"]
    with pytest.raises(ValueError, match="another architecture"):
        load(evaluator={"name": "same", "architecture": "conv3"})


def test_a_row_changes_its_own_split_alone():
    config = load(
        split={"public": 100},
        figures=[{"name": "f", "title": "F", "rows": [{"name": "a"}, {"name": "b", "split": {"public": 50}}]}],
    )
    assert [config.split_of(row)["public"] for _, row in config.rows()] == [100, 50]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"attack": "decode"}, "expected an attack of"),
        ({"settings": {"epoch": 3}}, "epoch"),
        ({"policy": {"topp": 3}}, "topp"),
        ({"policy": {"purifier": "somewhere"}}, "expected `purify`"),
        ({"purify": {"weigth": 1}}, "weigth"),
        ({"attack": "mirror-genetic", "policy": {"label_only": True}}, "expected a service that tells scores"),
        ({"split": {"pubic": 3}}, "pubic"),
        ({"auxiliary": "generic"}, "expected `classes`"),
        ({"auxiliary": "others"}, "auxiliary"),
        ({"defenses": [{"name": "joint-inversion", "weigth": 3}]}, "weigth"),
    ],
)
def test_what_does_not_fit_is_named_with_its_row(row, said):
    with pytest.raises(ValueError, match=said):
        with_row(**row)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prediction-invertion": {"epochs": 1}}, "did you mean 'prediction-inversion'"),
        ({"mirror": {"epoch": 1}}, "settings of 'mirror': .*epoch"),
    ],
)
def test_settings_of_no_attack_are_refused_and_those_that_do_not_fit_one_that_no_row_has(settings, said):
    with pytest.raises(ValueError, match=said):
        load(settings=settings)


def test_a_conditional_prior_is_refused_where_it_is_of_others_than_the_targets_classes():
    own = {"name": "a", "attack": "gmi"}
    others = {**own, "classes": 4, "auxiliary": "generic"}
    rows = {"own": [own], "others": [others], "unsearched": [{**others, "attack": "class-inference"}]}
    figures = {name: [{"name": "one", "title": "One", "rows": of}] for name, of in rows.items()}
    for name in ("own", "unsearched"):
        load(prior={"conditional": True}, figures=figures[name])
    with pytest.raises(ValueError, match=r"expected a prior that is not conditional .* got 'generic'"):
        load(prior={"conditional": True}, figures=figures["others"])
    load(figures=figures["others"])


def test_a_claim_about_a_row_that_is_not_there_is_refused():
    claim = {"text": "more is more", "figure": "one", "metric": "mse", "lower": "full", "higher": "four"}
    with pytest.raises(ValueError, match="four"):
        load(claims=[claim])


@pytest.mark.parametrize("doubled", ["figures", "rows", "seeds"])
def test_names_and_seeds_occur_once(doubled):
    changes = {
        "figures": {"figures": DOCUMENT["figures"] * 2},
        "rows": {"figures": [{"name": "one", "title": "One", "rows": [{"name": "full"}] * 2}]},
        "seeds": {"seeds": [1, 1]},
    }[doubled]
    with pytest.raises(ValueError, match=r"name of its own|once"):
        load(**changes)

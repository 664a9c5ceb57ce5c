import copy

import pytest

from splitleak.attacker.prior import Prior, PriorDocument
from splitleak.eval.campaign.classes.config import BASELINES, ClassCampaign
from splitleak.eval.campaign.predictions.plan import make_prediction_plan
from splitleak.models.generator import Generator, GeneratorConfig

DOCUMENT = {
    "kind": "classes",
    "name": "tiny",
    "seeds": [0],
    "datasets": [{"name": "images", "channels": 1}],
    "model": {"name": "small", "architecture": "conv3", "width": 0.1},
    "evaluator": {"name": "judge", "architecture": "cnn"},
    "targets": [
        {"name": "none"},
        {"name": "frozen", "defenses": [{"name": "transfer", "frozen": 1}]},
    ],
    "attacks": [
        {"name": "GMI", "attack": "gmi"},
        {"name": "BREP", "attack": "brep-mi", "targets": ["none"]},
    ],
    "pretraining": {"data": "photographs"},
}
OTHERS = [{"name": "same"}, {"name": "other classes", "classes": 5, "auxiliary": "generic", "attacks": ["GMI"]}]


def load(**changes):
    return ClassCampaign.load({**copy.deepcopy(DOCUMENT), **changes}, source="test.toml")


def jobs_of(config, kind):
    return [job for job in make_prediction_plan(config).jobs if job.kind == kind]


def test_each_attack_is_a_figure_whose_rows_are_the_targets_that_it_names():
    found = {figure.name: [row.name for row in figure.rows] for figure in load().figures}
    assert {name: rows for name, rows in found.items() if name not in BASELINES} == {
        "GMI": ["none", "frozen"],
        "BREP": ["none"],
    }


def names(config, setting=""):
    return [figure.name.removesuffix(setting) for figure in config.figures if figure.name.endswith(setting)]


def test_baselines_are_measured_whatever_the_attacks_are_and_as_far_as_they_are_fair():
    assert [name for name in names(load()) if name in BASELINES] == list(BASELINES)
    config = load(private=OTHERS)
    others = [name for name in names(config, " - other classes") if name != "GMI"]
    assert others == ["public by scores", "public by label", "samples by scores"]  # no label is of the target's classes
    weights = load(attacks=[{"name": "MI-Face", "attack": "mi-face"}])
    assert names(weights) == ["public by scores", "public by label", "public by own labels", "MI-Face"]
    assert {row.name for figure in weights.figures for row in figure.rows} == {"none", "frozen"}


def test_no_attack_may_take_the_name_of_a_baseline():
    with pytest.raises(ValueError, match="expected every attack to have a name of its own"):
        load(attacks=[{"name": "public by label", "attack": "gmi"}])


def test_where_the_prior_is_of_others_a_judge_knows_them_too():
    plan = make_prediction_plan(load(private=OTHERS))
    jobs = {job.id: job for job in plan.jobs}
    [images] = [job for job in plan.jobs if job.kind == "open"]
    [judge] = [job for job in plan.jobs if job.settings.get("images") == images.settings["folder"]]
    assert images.id in judge.needs
    judged = [cell for cell in plan.cells if "open_judge" in cell.settings]
    assert {cell.settings["cell"]["auxiliary"] for cell in judged} == {"generic"}
    assert all(judge.id in cell.needs and cell.settings["open_judge"] == judge.output for cell in judged)
    assert {cell.settings["cell"]["auxiliary"] for cell in plan.cells if cell not in judged} == {"same"}
    assert len(jobs) == len(plan.jobs)


def test_another_setting_has_figures_of_its_own_and_its_rows_its_classes():
    config = load(private=OTHERS)
    figures = {figure.name: figure for figure in config.figures}
    assert [name for name in names(config) if "GMI" in name or "BREP" in name] == ["GMI", "BREP", "GMI - other classes"]
    assert {row.classes for row in figures["GMI - other classes"].rows} == {5}
    assert {row.auxiliary for row in figures["GMI - other classes"].rows} == {"generic"}


def test_what_it_writes_of_itself_reads_as_the_same_campaign():
    config = load(private=OTHERS)
    assert ClassCampaign.load(config.document(), source="again") == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacks": [{"name": "GMI", "attack": "gmi", "targets": ["nobody"]}]}, "expected names of none, frozen"),
        ({"private": [{"name": "x", "attacks": ["GAN"]}]}, "expected names of GMI, BREP"),
        ({"prior": {"iteration": 3}}, "iteration"),
        ({"strongest": {"losses": ["GAN"]}}, "expected names of GMI, BREP in 'losses'"),
        ({"targets": [{"name": "none", "defenses": [{"name": "transfre"}]}]}, "expected a defense of"),
        ({"targets": [{"name": "none", "published": "BiDO"}]}, "expected a published defense of BiDO-COCO, .*TL-DMI"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(changes, said):
    with pytest.raises(ValueError, match=said):
        load(**changes)


def test_the_published_defense_beside_a_target_changes_no_job():
    named = [DOCUMENT["targets"][0], {**DOCUMENT["targets"][1], "published": "TL-DMI"}]
    before, after = (make_prediction_plan(config).jobs for config in (load(), load(targets=named)))
    assert [job.id for job in before] == [job.id for job in after]


def test_a_claim_may_be_about_the_strongest_attack_on_a_target():
    claim = {"text": "t", "figure": "strongest", "metric": "recognised", "lower": "frozen", "higher": "none"}
    assert load(claims=[claim]).claims[0].figure == "strongest"
    with pytest.raises(ValueError, match="expected a row of none, frozen"):
        load(claims=[{**claim, "lower": "nobody"}])
    assert load(strongest={"losses": ["GMI"]}, claims=[{**claim, "figure": "losses"}]).claims[0].figure == "losses"
    with pytest.raises(ValueError, match="expected another name"):
        load(strongest={"GMI": ["GMI"]})


def test_attacks_share_one_prior_and_targets_one_pre_trained_network():
    plan = make_prediction_plan(load())
    [prior] = [job for job in plan.jobs if job.kind == "prior"]
    assert {prior.id in job.needs for job in plan.cells if not job.settings["attack"].startswith("public")} == {True}
    frozen = next(job for job in plan.jobs if job.kind == "train" and "pretrained" in job.settings)
    before = next(job for job in plan.jobs if job.output == frozen.settings["pretrained"])
    assert before.id in frozen.needs
    assert before.settings["images"].startswith("images/pretraining-")
    assert [job.id for job in plan.jobs].index(before.id) < [job.id for job in plan.jobs].index(frozen.id)


def test_who_needs_labels_alone_meets_a_service_that_tells_no_more():
    [cell] = [job for job in make_prediction_plan(load()).cells if job.settings["attack"] == "brep-mi"]
    assert cell.settings["policy"]["label_only"] is True
    assert "model" not in cell.settings["needs"]


def test_an_adaptive_attack_is_another_cell():
    attacks = [{"name": "GMI", "attack": "gmi"}, {"name": "adaptive", "attack": "gmi", "adaptive": True}]
    plain, adaptive = (
        [
            job.id
            for job in jobs_of(load(attacks=attacks), "cell")
            if job.settings["attack"] == "gmi" and job.settings.get("adaptive", False) is told
        ]
        for told in (False, True)
    )
    assert len(plain) == len(adaptive) == 2
    assert not set(plain) & set(adaptive)


def test_an_embedder_makes_other_cells_of_the_same_attacks_and_of_nothing_else(embedder):
    document = {"datasets": [{"name": "images", "channels": 3}]}
    plain = make_prediction_plan(load(**document))
    [file, table] = ({"embedder": each} for each in (str(embedder), {"onnx": str(embedder)}))
    judged = make_prediction_plan(load(**document, **file))
    assert judged.jobs == make_prediction_plan(load(**document, **table)).jobs
    assert {job.id for job in judged.jobs} - {job.id for job in plain.jobs} == {cell.id for cell in judged.cells}
    assert [cell.settings["attacked"] for cell in judged.cells] == [f"cells/{cell.key}/attack" for cell in plain.cells]
    assert judged.cells_in_order[0]["id"] == judged.cells[0].key
    assert {cell.settings["embedder"]["onnx"] for cell in judged.cells} == {str(embedder)}
    scaled = {"onnx": str(embedder), "network": {"preprocessing": {"range": 255}}}
    other = make_prediction_plan(load(**document, embedder=scaled))
    assert not {cell.id for cell in judged.cells} & {cell.id for cell in other.cells}


def test_an_embedder_is_found_from_the_file_and_held_to_be_one(embedder, tmp_path):
    document = {**copy.deepcopy(DOCUMENT), "datasets": [{"name": "images", "channels": 3}], "embedder": embedder.name}
    config = ClassCampaign.load(document, source=str(embedder.parent / "campaign.toml"))
    assert config.embedder.onnx == embedder
    assert ClassCampaign.load(config.document(), source="again") == config
    with pytest.raises(FileNotFoundError, match=r"face\.onnx"):
        ClassCampaign.load(document, source=str(tmp_path / "campaign.toml"))
    assert "embedder" not in load().document()


HEADS = [
    {"name": "none"},
    {"name": "LoR", "defenses": [{"name": "low-rank", "rank": 4}]},
    {"name": "LoR identity", "defenses": [{"name": "low-rank", "rank": 4, "activation": "identity"}]},
    {"name": "noisy MID", "defenses": [{"name": "mid", "noise_at_test": True}]},
    {"name": "smoothed", "defenses": [{"name": "label-smoothing"}]},
]


def parsed(**changes):
    """A campaign, without building what is in it."""
    return ClassCampaign.parse({**copy.deepcopy(DOCUMENT), **changes}, source="test.toml")


def rows_of(config):
    return {f.name: [row.name for row in f.rows] for f in config.figures if f.name not in BASELINES}


def test_attacks_that_know_the_defense_are_added_wherever_there_is_one():
    attacks = [
        {"name": "GMI", "attack": "gmi", "settings": {"restarts": 3}},
        {"name": "MI-Face", "attack": "mi-face"},
        {"name": "BREP", "attack": "brep-mi"},
    ]
    everyone = [target["name"] for target in HEADS]
    plain = {name: everyone for name in ("GMI", "MI-Face", "BREP")}
    masked = ["LoR", "noisy MID"]
    config = parsed(targets=HEADS, attacks=attacks)
    assert rows_of(config) == {
        **plain,
        "GMI adaptive": masked,
        "GMI features": ["LoR", "LoR identity", "noisy MID"],
        "MI-Face adaptive": masked,  # it has no identity loss to put features in place of, and who has labels no head
    }
    adaptive, features = (
        next(figure for figure in config.figures if figure.name == f"GMI {way}").rows[0]
        for way in ("adaptive", "features")
    )
    assert (adaptive.adaptive, adaptive.settings) == (True, {"restarts": 3})
    assert (features.adaptive, features.settings) == (False, {"restarts": 3, "identity": {"loss": "features"}})
    assert rows_of(parsed(targets=HEADS, attacks=attacks, adaptive=False)) == plain
    assert ClassCampaign.parse(config.document(), source="again") == config
    assert parsed(targets=HEADS, attacks=attacks, strongest={"x": ["GMI", "GMI adaptive"]}).claimable()["x"] == everyone


def test_adaptive_attacks_that_a_file_has_already_are_not_there_twice():
    features = {"loss": "features"}
    attacks = [
        {"name": "GMI", "attack": "gmi", "targets": ["none", "LoR"]},
        {"name": "GMI logit", "attack": "gmi", "settings": {"identity": "logit"}, "targets": ["noisy MID"]},
        {"name": "by features", "attack": "gmi", "settings": {"identity": features}, "targets": ["none"]},
        {"name": "GMI adaptive", "attack": "gmi", "adaptive": True, "targets": ["smoothed"]},
    ]
    assert rows_of(parsed(targets=HEADS, attacks=attacks)) == {
        "GMI": ["none", "LoR"],
        "GMI logit": ["noisy MID"],
        "by features": ["none", "LoR", "noisy MID"],
        "GMI adaptive": ["LoR", "smoothed"],
        "GMI logit adaptive": ["noisy MID"],
    }


def test_a_setting_of_some_attacks_has_those_that_follow_them():
    attacks = [{"name": "GMI", "attack": "gmi"}, {"name": "PPA", "attack": "ppa"}]
    private = [{"name": "same"}, {"name": "few", "classes": 5, "attacks": ["PPA"]}]
    config = parsed(targets=HEADS, attacks=attacks, private=private)
    few = [name.removesuffix(" - few") for name in rows_of(config) if name.endswith(" - few")]
    assert [name for name in few if name not in BASELINES] == ["PPA", "PPA adaptive", "PPA features"]
    assert config.private[0].attacks is None


def test_a_prior_of_ones_own_is_searched_under_every_seed_and_none_is_trained(tmp_path):
    config = GeneratorConfig(channels=1, size=32, latent=4, width=2)
    document = PriorDocument(format=1, generator=config)
    Prior(document, Generator(config).eval(), None).save(tmp_path / "faces")
    attacks = [{"name": "PPA", "attack": "ppa"}]
    named = {**copy.deepcopy(DOCUMENT), "own_prior": "faces", "seeds": [0, 1], "attacks": attacks}
    campaign = ClassCampaign.load(named, source=str(tmp_path / "campaign.toml"))
    plan = make_prediction_plan(campaign)
    [prior] = [job for job in plan.jobs if job.kind == "prior"]
    assert prior.settings["prior"]["folder"] == str(tmp_path / "faces")
    searching = [cell for cell in plan.cells if cell.settings["attack"] == "ppa"]
    assert [cell.settings["prior"] for cell in searching] == [prior.output] * 4
    assert all(prior.id in cell.needs for cell in searching)
    for seed in (0, 1):
        some = plan.of_seeds([seed])
        assert {need for job in some for need in job.needs} <= {job.id for job in some}
        assert {job.seed for job in some if job.id != prior.id} == {seed}
    trained = make_prediction_plan(load(seeds=[0, 1], attacks=attacks))
    assert not {cell.id for cell in searching} & {cell.id for cell in trained.cells}
    assert ClassCampaign.load(campaign.document(), source="again") == campaign
    for changes, said in (
        (
            {"datasets": [{"name": "images", "channels": 3}]},
            r"expected a prior of images \(3, 32, 32\), got \(1, 32, 32\)",
        ),
        ({"prior": {"iterations": 3}}, "got both"),
    ):
        with pytest.raises(ValueError, match=said):
            ClassCampaign.load({**named, **changes}, source=str(tmp_path / "campaign.toml"))

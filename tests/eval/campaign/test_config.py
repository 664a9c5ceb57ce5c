import re
from copy import deepcopy
from importlib.resources import as_file, files

import numpy as np
import pytest

from splitleak.defenses.training import TrainingConfig
from splitleak.eval.campaign.config import CampaignConfig, fingerprint
from splitleak.eval.campaign.extending import read_campaign
from splitleak.eval.report import published
from tests.eval.campaign.conftest import OWN_CUT

NOISE = {"name": "gaussian-noise", "sigma": 0.05}
WEAK = {"name": "laplace-noise"}
DOCUMENT = {
    "name": "toy",
    "seeds": [0],
    "datasets": [{"name": "builtin", "channels": 1, "size": 16}],
    "models": [{"name": "cnn", "architecture": "cnn"}],
    "training": {"epochs": 3},
    "plus": {"name": "CEM", "defenses": [{"name": "cem", "weight": 0.1}]},
    "methods": [{"name": "Noise", "defenses": [NOISE]}, {"name": "Weak", "defenses": [WEAK]}],
    "attacks": [{"name": "decoder", "attack": "decoder"}],
}


def load(change=None, **over):
    document = deepcopy({**DOCUMENT, **over})
    if change is not None:
        change(document)
    return CampaignConfig.load(document, source="toy.toml")


def target(config, row=0, seed=0):
    method, _, stack = list(config.rows())[row]
    return config.target(config.datasets[0], config.models[0], method, stack, seed)


def test_every_method_has_a_twin_with_what_is_stacked_on_top():
    stacks = [(method.name, plus, [each.name for each in stack]) for method, plus, stack in load().rows()]
    assert stacks == [
        ("Noise", None, ["gaussian-noise"]),
        ("Noise", "CEM", ["gaussian-noise", "cem"]),
        ("Weak", None, ["laplace-noise"]),
        ("Weak", "CEM", ["laplace-noise", "cem"]),
    ]


def test_without_a_plus_there_are_no_twins():
    assert [plus for _, plus, _ in load(plus=None).rows()] == [None, None]


def test_a_method_may_have_a_plus_of_its_own_or_no_twin():
    methods = [{"name": "Own", "defenses": [NOISE], "plus": [{"name": "cem", "weight": 0.5}]}]
    methods += [{"name": "None", "plus": []}]
    rows = list(load(methods=methods).rows())
    assert [(method.name, plus) for method, plus, _ in rows] == [("Own", None), ("Own", "CEM"), ("None", None)]
    assert rows[1][2][1].config["weight"] == 0.5


def test_a_target_has_the_campaigns_training_and_over_it_its_methods():
    methods = [{"name": "Own", "training": {"epochs": 5, "augment": {"flip": False}}}, {"name": "Other"}]
    config = load(methods=methods, plus=None)
    own, other = target(config, 0)["training"], target(config, 1)["training"]
    assert (own["epochs"], other["epochs"]) == (5, 3)
    assert (own["augment"]["flip"], other["augment"]["flip"]) == (False, True)
    assert own["augment"]["crop_padding"] == TrainingConfig().augment.crop_padding


def test_the_paper_preset_gives_targets_and_attacks_their_published_settings():
    config = load(preset="paper", training={})
    made = target(config)
    assert made["training"] == TrainingConfig.paper().document()
    assert made["model"]["width"] == 1.0
    attack = config.attack(config.attacks[0])
    assert attack.config == type(attack).paper_config()


OWN_DATA = [{"name": "photographs", "data": "photographs", "size": [16, 24], "channels": 3}]
OWN_MODELS = [
    {"name": "artifact", "artifact": "mine"},
    {"name": "file", "onnx": "net.onnx", "cut": OWN_CUT, "network": {"preprocessing": {"mean": [0.5]}}},
]


def load_own(folder, **over):
    document = {**deepcopy(DOCUMENT), "datasets": OWN_DATA, "models": OWN_MODELS, "plus": None, **over}
    return CampaignConfig.load(document, source=str(folder / "own.toml"))


def test_networks_of_ones_own_are_found_from_the_folder_of_the_file(own_network):
    config = load_own(own_network())
    artifact, file = config.models
    assert artifact.halves[0].cut == file.halves[0].cut == OWN_CUT
    assert artifact.halves[0].network != file.halves[0].network  # of other preprocessing
    assert CampaignConfig.load(config.document(), source="campaign.json") == config


def test_the_target_of_a_network_of_ones_own_is_fine_tuned(own_network):
    config = load_own(own_network())
    for model in config.models:
        made = config.target(config.datasets[0], model, config.methods[0], config.methods[0].defenses, 3)
        assert made["model"] == model.halves[0].document()
        assert made["training"] == {**TrainingConfig.fine_tuning().document(), "epochs": 3}
        assert (made["seed"], made["defenses"][0]["name"]) == (3, "gaussian-noise")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"artifact": "mine", "onnx": "net.onnx"}, "either an artifact or an ONNX file"),
        ({"onnx": "net.onnx"}, "a cut with an ONNX file"),
        ({"artifact": "mine", "cut": OWN_CUT}, "none with an artifact"),
        ({"artifact": "mine", "width": 1.0}, "width: Extra inputs are not permitted"),
        ({"onnx": "net.onnx", "cut": "/stem/Conv_output"}, f"did you mean '{OWN_CUT}'"),
    ],
)
def test_an_entry_of_a_network_of_ones_own_that_does_not_fit_is_refused(own_network, model, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load_own(own_network(), models=[{"name": "own", **model}])


def test_networks_that_are_not_there_are_refused(tmp_path):
    for model in OWN_MODELS:
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            load_own(tmp_path, models=[model])


@pytest.mark.parametrize(("size", "channels"), [(16, 3), ([24, 16], 3), ([16, 24], 1)])
def test_images_of_another_shape_than_the_networks_are_refused(own_network, size, channels):
    data = [{**OWN_DATA[0], "size": size, "channels": channels}]
    with pytest.raises(ValueError, match=r"method 'Noise', model 'artifact': .*expected images \(3, 16, 24\)"):
        load_own(own_network(), datasets=data)


def test_our_own_models_take_squares_alone():
    with pytest.raises(ValueError, match=r"model\.size: Input should be a valid integer"):
        load(datasets=[{"name": "builtin", "channels": 1, "size": [16, 24]}])


def test_a_target_carries_the_seed_and_every_default():
    made = target(load(), seed=7)
    assert made["seed"] == 7
    assert made["defenses"] == [{"name": "gaussian-noise", "config": {"sigma": 0.05}}]
    assert made["training"]["momentum"] == TrainingConfig().momentum


def test_what_was_written_can_be_read_again():
    config = load()
    assert CampaignConfig.load(config.document(), source="campaign.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["methods"][0]["defenses"].append({"name": "magic"}), "methods.0.*expected a defense of .*'magic'"),
        (lambda d: d["methods"][0]["defenses"][0].update(sgima=1), "sgima"),
        (lambda d: d["methods"][0].update(training={"epoch": 1}), r"method 'Noise', model 'cnn'.*training\.epoch"),
        (lambda d: d.update(training={"epochs": 0}), r"toy\.toml: method 'Noise'.*training\.epochs"),
        (lambda d: d["methods"].append({"name": "No"}), r"method 'No' \+ CEM, .*cem: expected noise"),
        (lambda d: d["models"][0].update(cut=99), r"method 'Noise', model 'cnn': .*cut at 1\.\."),
        (lambda d: d["attacks"][0].update(attack="magic"), r"attack 'decoder': expected an attack of .*'magic'"),
        (
            lambda d: d["attacks"][0].update(attack="prediction-inversion", settings={}),
            "expected an attack on features",
        ),
        (lambda d: d["attacks"][0].update(settings={"epoch": 1}), r"attack 'decoder': .*epoch"),
        (lambda d: d["attacks"].append(dict(d["attacks"][0])), "attacks to have a name of its own"),
        (lambda d: d["methods"].append({"name": "Noise"}), "methods to have a name of its own"),
        (lambda d: d.update(seeds=[1, 1]), "each seed once"),
        (lambda d: d.update(seeds=[]), "seeds"),
        (lambda d: d.update(published="table_x"), "expected a published table of .*cem_s1"),
        (lambda d: d.update(split={"seed": 3}), r"split\.seed"),
        (lambda d: (d.pop("plus"), d["methods"][0].update(plus=[NOISE])), r"expected a table \[plus\]"),
        (lambda d: d["methods"][0].update(name="../up"), r"methods\.0\.name"),
        (lambda d: d.update(colour="red"), "colour"),
    ],
)
def test_every_mistake_is_found_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message):
        load(change)


def test_a_file_is_known_by_its_contents(tmp_path):
    def images(folder, value):
        folder.mkdir()
        np.savez(folder / "set.npz", images=np.full((4, 8, 8), value, np.uint8), labels=np.arange(4))
        return fingerprint(str(folder / "set.npz"))

    first = images(tmp_path / "a", 1)
    assert images(tmp_path / "b", 1) == first
    assert images(tmp_path / "c", 2) != first
    assert fingerprint("builtin") == "builtin"


def test_a_folder_is_known_by_the_contents_of_its_images(tmp_path):
    def known(folder="a", **files):
        for name, value in files.items():
            path = tmp_path / folder / "set" / name.replace("_", "/", 1).replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
        return fingerprint(str(tmp_path / folder / "set"))

    first = known(cat_1_png=b"one", dog_1_png=b"two", dog_2_png=b"six")
    assert known("b", dog_2_png=b"six", dog_1_png=b"two", cat_1_png=b"one") == first  # elsewhere, in another order
    assert known(cat_notes_txt=b"of no picture", dog__DS_Store=b"of a system") == first
    assert known(cat_1_png=b"new") != first  # of the same size
    assert known(cat_1_png=b"one") == first
    (tmp_path / "a" / "set" / "dog" / "2.png").rename(tmp_path / "a" / "set" / "cat" / "2.png")
    assert known() != first
    (tmp_path / "b" / "set" / "dog" / "2.png").unlink()
    (tmp_path / "b" / "set" / "dog" / "2.png").symlink_to(tmp_path / "gone")
    assert known("b") != first  # which is refused as it is read


def test_data_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"expected data of builtin, .*got 'nowhere\.npz'"):
        fingerprint("nowhere.npz")


@pytest.mark.parametrize(
    ("name", "methods", "attacks"),
    [
        ("cem_small", 7, ["decoder", "gan"]),
        ("cem_cifar10", 7, ["decoder", "gauge"]),
        ("cem_cifar10_half", 7, ["decoder", "gauge", "default decoder"]),
        ("cem_cifar10_5k", 3, ["decoder"]),
        ("cem_small_adaptive", 7, ["decoder 8 views"]),
    ],
)
def test_the_campaigns_that_ship_can_be_built_and_have_a_published_row_for_every_defense(name, methods, attacks):
    with as_file(files("splitleak.eval") / "campaigns" / f"{name}.toml") as path:
        config = CampaignConfig.load(read_campaign(path), source=name)
    rows = [(method.name, plus) for method, plus, stack in config.rows() if stack]
    assert len(rows) == 2 * methods
    assert [attack.name for attack in config.attacks] == attacks
    printed = {(row.method, row.plus) for row in published.load(config.published).rows}
    assert set(rows) <= printed
    for method, _, stack in config.rows():
        start = ["bottleneck", "gaussian-noise"] if method.name != "Undefended" else []
        assert [defense.name for defense in stack[:2]] == start, method.name

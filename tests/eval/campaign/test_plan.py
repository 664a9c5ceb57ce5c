from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch

from splitleak.artifacts import save_tensors
from splitleak.eval.campaign import plan as planning
from splitleak.eval.campaign.config import CampaignConfig, ImportedEntry
from splitleak.eval.campaign.plan import make_plan
from tests.eval.campaign.conftest import OWN_CUT

NOISE = {"name": "gaussian-noise", "sigma": 0.05}
DOCUMENT = {
    "name": "toy",
    "seeds": [4, 1],
    "split": {"public": 50, "victims": 10},
    "datasets": [{"name": "builtin", "channels": 1, "size": 16}],
    "models": [{"name": "cnn", "architecture": "cnn"}],
    "plus": {"name": "CEM", "defenses": [{"name": "cem", "weight": 0.1}]},
    "methods": [{"name": "Noise", "defenses": [NOISE]}, {"name": "Weak", "defenses": [{"name": "laplace-noise"}]}],
    "attacks": [
        {"name": "decoder", "attack": "decoder"},
        {"name": "larger", "attack": "decoder", "settings": {"blocks": 4}},
        {"name": "averaging", "attack": "decoder", "views": 4, "draws": 2},
    ],
}


def plan(change=None):
    document = deepcopy(DOCUMENT)
    if change is not None:
        change(document)
    return make_plan(CampaignConfig.parse(document, source="test"))


@pytest.fixture(scope="module")
def made():
    return plan()


def test_a_bound_of_queries_is_refused_for_an_attack_that_makes_none():
    def bounded(document):
        document["attacks"] += [{"name": "blind", "attack": "fora", "max_queries": 9, "answers": 2}]

    with pytest.raises(ValueError, match=r"blind: expected .* that queries beside answers and max_queries, got fora"):
        plan(bounded)


def changed(made, change):
    """Kinds of the jobs of ``made`` that are no longer in the plan after a change, and how many of each."""
    kept = {job.id for job in plan(change).jobs}
    return Counter(job.kind for job in made.jobs if job.id not in kept)


def test_what_cells_share_is_made_once(made):
    counts = Counter(job.kind for job in made.jobs)
    targets = 2 * 2 * 2  # seeds, methods, with and without
    assert counts == {"split": 2, "train": targets, "leakage": targets, "capture": 2 * targets, "cell": 3 * targets}
    assert len({job.id for job in made.jobs}) == len({job.output for job in made.jobs}) == len(made.jobs)


def test_linkage_is_one_more_job_a_target_and_codec_and_changes_no_other():
    def linked(document):
        document["linkage"] = {"views": 2}

    def coded(document):
        linked(document)
        document["methods"].append({**document["methods"][0], "name": "Coded", "codec": "uint8"})

    before, after = plan(), plan(linked)
    jobs = [job for job in after.jobs if job.kind == "linkage"]
    assert [job.id for job in after.jobs if job.kind != "linkage"] == [job.id for job in before.jobs]
    assert len(jobs) == 2 * 2 * 2
    assert {job.settings["config"]["views"] for job in jobs} == {2}
    assert {(job.settings["config"]["seed"], job.seed) for job in jobs} == {(4, 4), (1, 1)}
    of_codecs = [job for job in plan(coded).jobs if job.kind == "linkage"]
    assert len(of_codecs) == len({job.output for job in of_codecs}) == 3 * 2 * 2
    assert {job.settings["config"]["codec"] for job in of_codecs} == {"fp32", "uint8"}


@pytest.mark.parametrize("own", [{"seed": 1}, {"codec": "fp16"}, {"view": 2}])
def test_linkage_has_no_settings_of_the_targets_and_none_that_are_unknown(own):
    with pytest.raises(ValueError, match="linkage"):
        plan(lambda document: document.update(linkage=own))


def test_a_job_comes_after_all_that_it_needs(made):
    seen = set()
    for job in made.jobs:
        assert set(job.needs) <= seen
        seen.add(job.id)


def test_the_first_seed_of_the_file_is_complete_first(made):
    assert [job.seed for job in made.jobs] == sorted((job.seed for job in made.jobs), key=[4, 1].index)


def test_targets_that_take_long_to_train_come_first():
    def slow(document):
        document["methods"].append({"name": "Slow", "training": {"epochs": 50}})

    trained = [job.label for job in plan(slow).jobs if job.kind == "train" and job.seed == 4]
    assert trained[:2] == ["Slow, seed 4", "Slow + CEM, seed 4"]
    assert trained[2:] == ["Noise, seed 4", "Noise + CEM, seed 4", "Weak, seed 4", "Weak + CEM, seed 4"]


def test_attacks_of_equal_views_and_draws_share_a_capture(made):
    captures = {job.settings["cell"]["attack"]: job.needs[0] for job in made.cells if job.label.startswith("Noise, ")}
    assert captures["decoder"] == captures["larger"] != captures["averaging"]


def test_the_same_file_gives_the_same_plan(made):
    assert plan() == made


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda d: d.update(title="Another", report={"pictures": 3}), {}),
        (lambda d: d["seeds"].append(9), {}),
        (lambda d: d["methods"].append({"name": "New", "defenses": [{"name": "dropout"}]}), {}),
        (lambda d: d["attacks"][0].update(settings={"epochs": 3}), {"cell": 8}),
        (lambda d: d["attacks"][2].update(draws=3), {"capture": 8, "cell": 8}),
        (
            lambda d: d["methods"][0]["defenses"][0].update(sigma=0.1),
            {"train": 4, "leakage": 4, "capture": 8, "cell": 12},
        ),
        (
            lambda d: d["plus"]["defenses"][0].update(weight=0.2),
            {"train": 4, "leakage": 4, "capture": 8, "cell": 12},
        ),
        (
            lambda d: d["split"].update(victims=11),
            {"split": 2, "train": 8, "leakage": 8, "capture": 16, "cell": 24},
        ),
        (
            lambda d: d["split"].update({"from": "test"}),
            {"split": 2, "train": 8, "leakage": 8, "capture": 16, "cell": 24},
        ),
    ],
)
def test_a_change_of_the_file_redoes_what_it_touches_and_no_more(made, change, lost):
    assert changed(made, change) == lost


def test_the_data_themselves_are_in_the_name_of_what_is_made_of_them(tmp_path):
    def ids(folder, value):
        folder.mkdir()
        np.savez(folder / "set.npz", images=np.full((4, 8, 8), value, np.uint8), labels=np.arange(4))
        return [job.id for job in plan(lambda d: d["datasets"][0].update(data=str(folder / "set.npz"))).jobs]

    first = ids(tmp_path / "a", 1)
    assert ids(tmp_path / "moved", 1) == first
    assert not set(ids(tmp_path / "other", 2)) & set(first)


def test_the_weights_that_a_defense_starts_from_are_in_the_name_of_what_is_made_of_them(tmp_path):
    def ids(value):
        for half in ("edge", "cloud"):
            (tmp_path / half).mkdir(exist_ok=True)
            save_tensors(tmp_path / half / "weights.safetensors", {"weight": torch.full((2,), value)})
        started = {"name": "transfer", "pretrained": str(tmp_path)}
        return [job.id for job in plan(lambda d: d["methods"][0].update(defenses=[started])).jobs]

    first = ids(1.0)
    assert ids(1.0) == first
    unlike = [job for job in first if job not in ids(2.0)]
    assert Counter(job.partition("-")[0] for job in unlike) == {"train": 4, "leakage": 4, "capture": 8, "cell": 12}
    with pytest.raises(FileNotFoundError, match="expected a pre-trained artifact with both halves"):
        plan(lambda d: d["methods"][0].update(defenses=[{"name": "transfer", "pretrained": str(tmp_path / "none")}]))


OWN_CODE = """
from splitleak.attacker.reconstruction.linear import LinearAttack
from splitleak.datasets import DATASETS
from splitleak.defenses.features.noise import GaussianNoise

class Mine(GaussianNoise):
    name = "mine"

class Own(LinearAttack):
    name = "own"

def images():
    return DATASETS["builtin"]()
"""


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda document, name: document["methods"][0].update(defenses=[{"name": f"{name}:Mine"}]), {"train", "cell"}),
        (lambda document, name: document["attacks"][0].update(attack=f"{name}:Own"), {"cell"}),
        (lambda document, name: document["datasets"][0].update(data=f"{name}:images"), {"split", "train", "cell"}),
    ],
)
def test_code_of_ones_own_is_in_the_name_of_what_is_made_with_it(tmp_path, monkeypatch, change, lost):
    name = f"planned_code_{len(lost)}{'train' in lost}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITLEAK_ALLOW_CODE", "1")
    kinds = {"split", "train", "cell"}

    def ids(text):
        (tmp_path / f"{name}.py").write_text(text)
        made = [job for job in plan(lambda document: change(document, name)).jobs if job.kind in kinds]
        return {job.id: job.kind for job in made}

    first = ids(OWN_CODE)
    assert ids(OWN_CODE) == first
    assert {kind for job, kind in first.items() if job not in ids(f"{OWN_CODE}# another")} == lost


def test_two_methods_with_one_stack_share_their_target_but_not_their_cells():
    def twice(document):
        document["methods"].append({"name": "Again", "defenses": [NOISE]})

    counts = Counter(job.kind for job in plan(twice).jobs)
    assert (counts["train"], counts["capture"], counts["cell"]) == (8, 16, 36)


def test_seeds_can_be_run_one_at_a_time(made):
    some = made.of_seeds([1])
    assert {job.seed for job in some} == {1}
    assert len(some) * 2 == len(made.jobs) == len(made.of_seeds(None))
    with pytest.raises(ValueError, match=r"expected seeds of \[4, 1\], got \[7\]"):
        made.of_seeds([7])


def test_the_cells_are_written_down_in_the_order_of_the_file(made):
    cells = made.document()["cells"]
    assert len(cells) == 24
    assert [(cell["method"], cell["plus"]) for cell in cells[::6]] == [
        ("Noise", None),
        ("Noise", "CEM"),
        ("Weak", None),
        ("Weak", "CEM"),
    ]
    assert [(cell["attack"], cell["seed"]) for cell in cells[:4]] == [
        ("decoder", 4),
        ("decoder", 1),
        ("larger", 4),
        ("larger", 1),
    ]
    keys = {"id", "campaign", "dataset", "model", "method", "plus", "attack", "seed", "views", "target"}
    assert all(cell.keys() == keys for cell in cells)
    outputs = {job["output"] for job in made.document()["jobs"]}
    assert {f"cells/{cell['id']}/score" for cell in cells} <= outputs
    assert {f"targets/{cell['target']}" for cell in cells} <= outputs


def test_several_models_and_data_sets_are_told_apart():
    def more(document):
        document["models"].append({"name": "wide", "architecture": "cnn", "width": 1.0})
        document["datasets"].append({"name": "large", "channels": 1, "size": 32})

    made = plan(more)
    assert len(made.cells) == 4 * 24
    assert "Noise + CEM, large, wide, decoder, seed 1" in {job.label for job in made.cells}


def test_a_codec_is_another_row_of_the_same_target():
    def change(document):
        document["methods"].append({"name": "Noise uint8", "defenses": [NOISE], "codec": "uint8"})

    before, with_codec = plan(), plan(change)
    assert changed(before, change) == Counter()  # no id moves
    added = Counter(job.kind for job in with_codec.jobs if job.id not in {each.id for each in before.jobs})
    assert added == {"capture": 2 * 2 * 2, "cell": 2 * 2 * 3}  # seeds, twins, captures and attacks of each
    cells = [job for job in with_codec.cells if job.settings["cell"]["method"] == "Noise uint8"]
    assert {job.settings["cell"]["codec"] for job in cells} == {"uint8"}
    captures = {job.output for job in with_codec.jobs if job.settings.get("codec") == "uint8"}
    assert {job.settings["capture"] for job in cells} == captures


# Networks of one's own.


def planned_from(folder, **over):
    data = [{"name": "photographs", "data": "photographs", "size": [16, 24], "channels": 3}]
    models = [{"name": "artifact", "artifact": "mine"}, {"name": "file", "onnx": "net.onnx", "cut": OWN_CUT}]
    document = {**deepcopy(DOCUMENT), "datasets": data, "models": models, "plus": None, **over}
    return make_plan(CampaignConfig.load(document, source=str(folder / "own.toml")))


def ids(plan):
    return [job.id for job in plan.jobs]


def test_a_network_of_ones_own_is_brought_into_the_folder_before_its_trainings(own_network):
    made = planned_from(own_network())
    imports = [job for job in made.jobs if job.kind == "import"]
    assert [job.label for job in imports] == ["artifact, seed 4", "file, seed 4", "artifact, seed 1", "file, seed 1"]
    for job in made.jobs:
        if job.kind == "train":
            (source,) = (other for other in imports if other.output == job.settings["imported"])
            assert source.id in job.needs
            assert source.seed == job.seed


def test_ids_follow_from_what_a_network_is_and_not_from_where_it_lies(own_network, tmp_path):
    folder = own_network()
    before = ids(planned_from(folder))
    (tmp_path / "elsewhere").mkdir()
    for name in ("mine", "net.onnx"):
        (folder / name).rename(tmp_path / "elsewhere" / name)
    assert ids(planned_from(tmp_path / "elsewhere")) == before
    own_network(seed=1)
    kept = {*ids(planned_from(folder))} & {*before}
    assert {job.partition("-")[0] for job in kept} == {"split"}


def test_a_change_of_the_cut_or_the_preprocessing_changes_all_but_the_split(own_network):
    folder = own_network()
    file = {"name": "file", "onnx": "net.onnx", "cut": OWN_CUT}
    before = ids(planned_from(folder, models=[file]))
    for change in ({"cut": "/Add_output_0"}, {"network": {"preprocessing": {"mean": [0.1]}}}):
        kept = {*ids(planned_from(folder, models=[{**file, **change}]))} & {*before}
        assert {job.partition("-")[0] for job in kept} == {"split"}


@pytest.mark.slow
def test_an_audit_of_flat_features_counts_its_attacks_as_they_lay_before(own_network, monkeypatch):
    """As `splitleak audit` does of the same target; behind a defense that changes their shape, as they are."""
    seen = []
    monkeypatch.setattr(planning, "audit_entries", lambda config, sizes: seen.append(sizes) or [])
    folder = own_network()
    entry = {"name": "mine", "artifact": "mine"}
    network, _ = ImportedEntry(**entry).found_from(folder).halves
    lay = ((2, 8, 24),)
    flat = network.model_copy(update={"arranged": lay})
    assert flat.packed((1, *flat.features)) is None
    monkeypatch.setattr(ImportedEntry, "halves", (flat, ImportedEntry(**entry).found_from(folder).halves[1]))
    audit = {"name": "audit", "attack": "audit", "settings": {"minutes": 1}}
    planned_from(folder, models=[entry], attacks=[audit], seeds=[0])
    assert {sizes.parts for sizes in seen} == {lay}


def test_two_data_sets_of_the_same_images_split_alike_are_refused_by_their_names():
    def twice(document, **changes):
        document["datasets"] = [{**document["datasets"][0], "name": "a"}, {**document["datasets"][0], "name": "b"}]
        document["datasets"][1].update(changes)

    with pytest.raises(ValueError, match="expected data sets of different images, got 'b' and 'a' of the same"):
        plan(twice)
    made = plan(lambda document: twice(document, size=20))
    outputs = {job.settings["folder"] for job in made.jobs if job.kind == "split"}
    assert {job.settings["images"] for job in made.jobs if job.kind == "train"} == outputs

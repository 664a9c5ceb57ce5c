import base64
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.attacker.outputs import Reconstructions
from splitleak.cli import app
from splitleak.defenses.artifact import load_whole
from splitleak.eval.study.study import StudyConfig, choose, make_study, write_study
from splitleak.eval.study.votes import Key, score_votes


@pytest.fixture
def attacks(tmp_path, small_splits):
    """A's folder, with training images of the class for reconstructions, B's, with noise, and the training images."""
    train = small_splits.train
    small_splits.train.save(tmp_path / "train.npz")
    floats = train.floats()
    ids = tuple(f"{label}/{turn}" for label in range(10) for turn in range(2))
    good = torch.cat([floats[train.labels == label][:2] for label in range(10)])
    noise = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, images in (("a", good), ("b", noise)):
        Reconstructions(ids, images).save(tmp_path / name / "reconstructions.npz")
        write_json(tmp_path / name / "attack.json", {"attack": f"attack-{name}", "config": {}, "seed": 0, "queries": 1})
    return tmp_path / "a", tmp_path / "b", tmp_path / "train.npz"


def rounded(images):
    return (images * 255).round().to(torch.uint8)


def test_each_side_shows_what_the_key_says_and_real_images_are_of_the_class(attacks, small_splits):
    study = make_study(*attacks, StudyConfig(each=2, seed=3))
    made = [Reconstructions.load(folder / "reconstructions.npz") for folder in attacks[:2]]
    truth = {each.numpy().tobytes(): int(of) for each, of in zip(*_pool(small_splits), strict=True)}
    assert len(study.key.pairs) == 20
    assert {each.left for each in study.key.pairs} == {"a", "b"}
    for each in study.key.pairs:
        place = made[0].ids.index(f"{each.label}/{each.turn}")
        a, b = (rounded(one.images[place]) for one in made)
        left, right = study.left[each.pair], study.right[each.pair]
        assert torch.equal(left, a if each.left == "a" else b)
        assert torch.equal(right, b if each.left == "a" else a)
        assert truth[study.real[each.pair].numpy().tobytes()] == each.label
    labels = [each.label for each in study.key.pairs]
    assert labels != sorted(labels)
    assert study.key.a["attack"] == "attack-a"


def _pool(splits):
    return splits.train.pixels, splits.train.labels


def test_one_pair_a_class_is_the_first_and_another_seed_is_another_page(attacks):
    study = make_study(*attacks, StudyConfig())
    assert sorted((each.label, each.turn) for each in study.key.pairs) == [(label, 0) for label in range(10)]
    again, other = make_study(*attacks, StudyConfig()), make_study(*attacks, StudyConfig(seed=1))
    assert again.key == study.key
    assert other.key.study != study.key.study


def test_ids_without_a_turn_pair_with_the_first_turn(attacks, tmp_path):
    images = torch.rand(3, 1, 16, 16)
    Reconstructions(("0", "1", "2"), images).save(tmp_path / "one" / "reconstructions.npz")
    write_json(tmp_path / "one" / "attack.json", {"attack": "x"})
    study = make_study(tmp_path / "one", attacks[1], attacks[2], StudyConfig(each=9))
    assert sorted((each.label, each.turn) for each in study.key.pairs) == [(0, 0), (1, 0), (2, 0)]


def test_the_page_holds_the_pictures_and_not_the_key_and_loads_nothing(attacks, tmp_path, parsed):
    study, config = make_study(*attacks, StudyConfig()), StudyConfig()
    write_study(study, tmp_path / "page.html", tmp_path / "key.json", config)
    html = (tmp_path / "page.html").read_text()
    page = parsed(html)
    assert len(page.loaded) == 30
    assert all(each.startswith("data:image/png;base64,") for each in page.loaded)
    pictures = [Image.open(io.BytesIO(base64.b64decode(each.partition(",")[2]))) for each in page.loaded]
    for index, shown in enumerate(zip(study.real, study.left, study.right, strict=True)):
        for offset, expected in enumerate(shown):
            np.testing.assert_array_equal(np.asarray(pictures[3 * index + offset]), expected[0])
    for secret in ("attack-a", "attack-b", str(attacks[0]), "http", "fetch(", "import("):
        assert secret not in html
    assert Key.read(tmp_path / "key.json") == study.key
    with pytest.raises(ValueError, match="expected another file for the key"):
        write_study(study, tmp_path / "page.html", tmp_path / "." / "page.html", config)


def test_the_chooser_votes_for_the_reconstruction_nearer_to_the_real_image(attacks, artifact, tmp_path):
    study = make_study(*attacks, StudyConfig(each=2))
    votes = choose(study, artifact)
    model = load_whole(artifact, torch.device("cpu"), seed=0)
    *below, last = model.cloud.head[-1]

    def seen(images):
        features = model.cloud.head[:-1](model.edge.encoder(images.float() / 255))
        for layer in below:
            features = layer(features)
        assert features.shape[1] == last.in_features
        return features

    with torch.no_grad():
        real, left, right = map(seen, (study.real, study.left, study.right))
    expected = [
        "left" if (x - y).norm() < (x - z).norm() else "right" for x, y, z in zip(real, left, right, strict=True)
    ]
    assert [vote.choice for vote in votes.votes] == expected
    write_json(tmp_path / "votes.json", votes.document())
    write_json(tmp_path / "key.json", study.key.document())
    found = score_votes([tmp_path / "votes.json"], tmp_path / "key.json")
    assert found["answers"] == 20
    assert found["a"]["share"] > 0.6  # though this one has seen the images once
    assert list(found["voters"]) == ["1 toy"]


def test_a_study_replaces_its_own_page_and_key_alone(attacks, tmp_path):
    config = StudyConfig()
    study, page, key = make_study(*attacks, config), tmp_path / "study.html", tmp_path / "key.json"
    write_study(study, page, key, config)
    write_study(study, page, key, config)
    before = page.read_bytes(), key.read_bytes()
    other = StudyConfig(seed=1)
    with pytest.raises(FileExistsError, match=r"expected the page of this study or none at .*study\.html"):
        write_study(make_study(*attacks, other), page, key, other)
    with pytest.raises(FileExistsError, match=r"expected the key of this study or none at .*key\.json"):
        write_study(make_study(*attacks, other), tmp_path / "new.html", key, other)
    with pytest.raises(ValueError, match=r"expected a \.json file for the key, got .*key\.txt"):
        write_study(study, tmp_path / "new.html", tmp_path / "key.txt", config)
    assert (page.read_bytes(), key.read_bytes()) == before
    assert not (tmp_path / "new.html").exists()


def test_equal_pictures_are_no_choice(attacks, artifact):
    study = make_study(*attacks, StudyConfig())
    study = replace(study, right=study.left)
    assert {vote.choice for vote in choose(study, artifact).votes} == {None}


def test_one_attack_is_not_compared_with_itself_by_any_name(attacks, tmp_path):
    first, _second, train = attacks
    (tmp_path / "link").symlink_to("a")
    for other in (first, first / "." / ".." / "a", tmp_path / "link"):
        with pytest.raises(ValueError, match="expected different attacks, got"):
            make_study(first, other, train, StudyConfig())
    shutil.copytree(first, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"expected reconstructions of two attacks in .*, got the same pictures"):
        make_study(first, tmp_path / "copy", train, StudyConfig())
    with pytest.raises(FileNotFoundError):
        make_study(first, tmp_path / "nothing", train, StudyConfig())


@pytest.mark.parametrize("name", ["probe-7", "3/0/1", "-1", "3/", "x/1", "1" * 5000])
def test_pictures_of_no_class_are_refused_by_name(attacks, name):
    Reconstructions((name,), torch.rand(1, 1, 16, 16)).save(attacks[1] / "reconstructions.npz")
    with pytest.raises(ValueError, match=rf"b: expected what `splitleak invert` writes, .* got '{name[:30]}"):
        make_study(*attacks, StudyConfig())


def test_the_command_writes_page_key_and_the_choosers_votes(attacks, artifact, tmp_path):
    out = tmp_path / "out" / "study.html"
    asked = [*map(str, attacks[:2]), "--train-images", str(attacks[2]), "--out", str(out), "--chooser", str(artifact)]
    told = CliRunner().invoke(app, ["study", *asked, "--json"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    made = json.loads(told.stdout)
    assert made["pairs"] == 10
    scored = CliRunner().invoke(app, ["study-score", made["votes"], "--key", made["key"], "--json"])
    assert json.loads(scored.stdout)["a"]["share"] > 0.6


def test_attacks_without_a_common_class_are_refused(attacks, tmp_path):
    Reconstructions(("77",), torch.rand(1, 1, 16, 16)).save(tmp_path / "far" / "reconstructions.npz")
    with pytest.raises(ValueError, match="expected reconstructions of the same classes"):
        make_study(attacks[0], tmp_path / "far", attacks[2], StudyConfig())
    Reconstructions(("0",), torch.rand(1, 1, 8, 8)).save(tmp_path / "far" / "reconstructions.npz")
    with pytest.raises(ValueError, match=r"expected reconstructions \(1, 16, 16\)"):
        make_study(attacks[0], tmp_path / "far", attacks[2], StudyConfig())

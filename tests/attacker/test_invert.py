"""Class inversion as the command runs it."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from splitleak.artifacts import load_tensors
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassInversion
from splitleak.attacker.invert import InversionAccess, InversionConfig, run_inversion
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.queries import Pairs, ServiceProbe
from splitleak.cli import app
from splitleak.cloud.policy import PolicyConfig
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.config import Config, read_document
from splitleak.datasets.files import load_file
from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.logs import silent

CPU = torch.device("cpu")
QUICK = {"steps": 2}


def invert(out, access, **changes):
    config = InversionConfig(**{"attack": "mi-face", "settings": QUICK, **changes})
    return run_inversion(config, access, out, CPU, silent)


class MeanOfEach(ClassInversion):
    """The mean of the images that the service puts in each class."""

    name = "mean-of-each"
    config_type = Config
    access = "label"
    needs = frozenset({"public", "query"})

    def invert(self, known, run):
        tops = known.query(known.public).argmax(1)
        mean = [known.public[tops == label].sum(0) / max(1, (tops == label).sum()) for label in range(10)]
        return torch.stack(mean)[:, None]


@pytest.fixture
def mean_of_each(monkeypatch):
    monkeypatch.setitem(CLASS_ATTACKS, "mean-of-each", MeanOfEach)


@pytest.fixture(scope="module")
def service(trained):
    """The address of the whole model, which tells no more than the class and its confidence."""
    config = CloudConfig(policy=PolicyConfig(top=1))
    with cloud(config, load_whole(trained / "toy", CPU, seed=0)) as port:
        yield f"127.0.0.1:{port}"


def test_an_attack_leaves_one_picture_a_class_under_its_number_and_says_how(trained, tmp_path):
    made = invert(tmp_path / "out", InversionAccess(artifact=trained / "toy"), seed=3)
    assert (made["rebuilt"], made["queries"]) == (10, 0)
    assert "confidences" not in made["findings"]
    rebuilt = Reconstructions.load(tmp_path / "out" / "reconstructions.npz")
    assert rebuilt.ids == tuple(map(str, range(10)))
    assert rebuilt.images.shape == (10, 1, 16, 16)
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert (found["attack"], found["seed"], found["queries"], found["draws"]) == ("mi-face", 3, 0, 1)
    assert found["knowledge"] == ["classes", "model"]
    assert found["config"]["steps"] == 2
    assert len(found["findings"]["confidences"]) == 10
    assert found["public_hashes"] == []
    assert {"command", "commit", "hardware", "time"} <= found["provenance"].keys()


def test_who_has_the_weights_ignores_output_policies_and_the_file_says_so(trained, tmp_path):
    invert(tmp_path / "out", InversionAccess(artifact=trained / "toy"))
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["ignores_output_policy"] is True


def test_a_white_box_is_the_whole_network_frozen_and_without_noise(trained, small_splits):
    known = InversionAccess(artifact=trained / "toy").knowledge(InversionConfig(attack="mi-face"), None, CPU)
    images = small_splits.public.floats()[:4]
    assert torch.equal(known.model(images), known.model(images))
    assert known.model(images).shape == (4, 10)
    assert not known.model.training
    assert not any(parameter.requires_grad for parameter in known.model.parameters())
    assert (known.classes, known.image_shape, known.query, known.public) == (10, (1, 16, 16), None, None)


def test_an_attack_is_refused_without_what_it_needs(trained, tmp_path):
    with pytest.raises(PermissionError, match="'mi-face' needs 'model', which this threat model withholds"):
        invert(tmp_path / "out", InversionAccess(public=trained / "public.npz"))
    assert not (tmp_path / "out").exists()


def test_without_images_or_a_model_the_shape_is_unknown(tmp_path):
    with pytest.raises(ValueError, match="expected images of the attacker's own or a model"):
        invert(tmp_path / "out", InversionAccess())


def test_a_service_and_pairs_together_are_refused(trained, tmp_path):
    access = InversionAccess(public=trained / "public.npz", service="127.0.0.1:1", pairs=tmp_path / "pairs.npz")
    with pytest.raises(ValueError, match="a live service to query or recorded pairs, got both"):
        invert(tmp_path / "out", access)


def test_live_queries_are_counted_and_capped(trained, service, mean_of_each, tmp_path, small_splits):
    access = InversionAccess(public=trained / "public.npz", service=service)
    made = invert(tmp_path / "out", access, attack="mean-of-each", settings={}, max_queries=300)
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert (made["queries"], found["queries"], found["ignores_output_policy"]) == (300, 300, False)
    assert found["knowledge"] == ["labels", "public", "query"]
    assert found["public_hashes"] == small_splits.public.hashes()
    with pytest.raises(PermissionError, match="at most 299 queries, got 300"):
        invert(tmp_path / "more", access, attack="mean-of-each", settings={}, max_queries=299)
    assert not (tmp_path / "more").exists()


def test_queries_on_record_are_those_of_the_attackers_images(trained, service, mean_of_each, tmp_path):
    pairs, public = tmp_path / "pairs.npz", trained / "public.npz"
    Pairs.record(ServiceProbe(service), load_file(public).train, draws=1, views=1).save(pairs)
    for name in ("one", "two"):  # the model is noisy: asked live, it would not answer twice the same
        invert(tmp_path / name, InversionAccess(public=public, pairs=pairs), attack="mean-of-each", settings={})
    first, second = (Reconstructions.load(tmp_path / name / "reconstructions.npz") for name in ("one", "two"))
    assert torch.equal(first.images, second.images)
    assert json.loads((tmp_path / "one" / "attack.json").read_text())["queries"] == 300
    for other in (None, trained / "victims.npz"):
        with pytest.raises(ValueError, match="expected queries with the images of"):
            InversionAccess(public=other, pairs=pairs, artifact=trained / "toy").knowledge(
                InversionConfig(attack="mean-of-each"), None if other is None else load_file(other).train, CPU
            )


def test_an_unknown_attack_or_setting_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected an attack of .*mi-face.*, got 'magic'"):
        InversionConfig(attack="magic").build()
    with pytest.raises(ValueError, match=r"attack 'mi-face': .*step"):
        InversionConfig(attack="mi-face", settings={"step": 3}).build()


def test_settings_lie_over_the_preset():
    built = InversionConfig(attack="mi-face", preset="paper", settings={"steps": 7}).build()
    assert (built.config.steps, built.config.loss) == (7, "probability")


def test_the_command_passes_on_what_it_is_given(trained, tmp_path):
    (tmp_path / "settings.json").write_text('{"steps": 3, "learning_rate": 0.5}')
    asked = ("--attack", "mi-face", "--artifact", trained / "toy", "--config", tmp_path / "settings.json")
    rest = ("--set", "steps=1", "--seed", 4, "--preset", "paper", "--classes", 10, "--out", tmp_path / "out", "--json")
    told = CliRunner().invoke(app, ["invert", *map(str, (*asked, *rest))], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["rebuilt"] == 10
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["seed"] == 4
    assert (found["config"]["steps"], found["config"]["learning_rate"]) == (1, 0.5)
    assert found["config"]["optimizer"] == "gradient-descent"


def test_a_model_is_asked_without_a_service_and_its_labels_may_be_all_there_is(trained, tmp_path, mean_of_each):
    access = InversionAccess(public=trained / "public.npz", oracle=trained / "toy")
    public = load_file(trained / "public.npz").train
    plain = invert(tmp_path / "plain", access, attack="mean-of-each", settings={})
    labels = invert(tmp_path / "labels", replace(access, labels_only=True), attack="mean-of-each", settings={})
    assert plain["queries"] == labels["queries"] == 300
    query = replace(access, labels_only=True).knowledge(InversionConfig(attack="mi-face"), public, CPU).query
    answers = query(torch.rand(5, 1, 16, 16))
    assert query.answers == "labels"
    assert ((answers == 1).sum(1) == 1).all()
    assert (answers.sum(1) == 1).all()
    with pytest.raises(ValueError, match="expected one way to query"):
        invert(tmp_path / "both", replace(access, service="127.0.0.1:1"))


def test_a_prior_tells_the_shape_and_its_images_are_on_record(trained, tiny_prior, tmp_path, small_splits):
    tiny_prior.save(tmp_path / "prior")
    access = InversionAccess(artifact=trained / "toy", prior=tmp_path / "prior")
    made = invert(tmp_path / "out", access, attack="gmi", settings={"steps": 1, "restarts": 2})
    assert made["rebuilt"] == 20
    rebuilt = Reconstructions.load(tmp_path / "out" / "reconstructions.npz")
    assert rebuilt.ids[:3] == ("0/0", "0/1", "1/0")
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["access"] == "white"
    assert found["knowledge"] == ["classes", "model", "prior"]
    assert found["prior"] == tiny_prior.digest
    assert set(found["public_hashes"]) == set(small_splits.public.hashes())
    assert load_tensors(tmp_path / "out" / "weights.safetensors")[0]["latents"].shape[:2] == (10, 2)
    only = InversionAccess(prior=tmp_path / "prior").knowledge(InversionConfig(attack="gmi"), None, CPU)
    assert only.image_shape == (1, 16, 16)


def test_an_adaptive_attacker_bypasses_the_tanh_and_the_file_says_so(small_splits, tmp_path):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "low-rank", "rank": 2}],
        "training": {"epochs": 1},
    }
    made = train(TargetConfig.parse(document, source="test"), small_splits, device=CPU)
    save(tmp_path / "target", "target", made)
    config = InversionConfig(attack="mi-face", settings=QUICK)
    plain, adaptive = (
        InversionAccess(artifact=tmp_path / "target", adaptive=told).knowledge(config, None, CPU).model
        for told in (False, True)
    )
    slopes = []
    for model in (plain, adaptive):
        images = small_splits.test.floats()[:4].requires_grad_()
        slopes += torch.autograd.grad(model(images).sum(), images)
    assert not torch.allclose(*slopes)
    assert torch.equal(plain(images), adaptive(images))
    invert(tmp_path / "out", InversionAccess(artifact=tmp_path / "target", adaptive=True))
    assert read_document(tmp_path / "out" / "attack.json")["adaptive"] is True
    with pytest.raises(ValueError, match="expected the weights"):
        InversionAccess(adaptive=True).knowledge(config, None, CPU)


def test_features_are_matched_with_public_images_and_refused_without(trained, tiny_prior, tmp_path, small_splits):
    tiny_prior.save(tmp_path / "prior")
    access = InversionAccess(artifact=trained / "toy", prior=tmp_path / "prior", adaptive=True)
    asked = {"attack": "gmi", "settings": {**QUICK, "identity": {"loss": "features"}}}
    with pytest.raises(PermissionError, match="'gmi' needs 'public'"):
        invert(tmp_path / "out", access, **asked)
    invert(tmp_path / "out", replace(access, public=trained / "public.npz"), **asked)
    found = read_document(tmp_path / "out" / "attack.json")
    assert found["config"]["identity"] == {"loss": "features", "each": 30}
    assert found["knowledge"] == ["classes", "labels", "model", "prior", "public"]
    assert set(found["public_hashes"]) == set(small_splits.public.hashes())

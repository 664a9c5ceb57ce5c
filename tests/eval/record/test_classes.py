import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.attacker.base import Run
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.prior import PriorConfig, train_prior
from splitleak.cli import app
from splitleak.config import digest
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import artifact_digest, load_whole, read_record, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.record.classes import class_means, make_class_record
from splitleak.eval.record.metrics import Reading, headline, metric_named
from splitleak.eval.record.schema import FigurePlace, load_record
from splitleak.eval.report.report import write_report

PLACE = FigurePlace(kind="classes", figure="10", row="none", dataset="builtin", attack="mi-face", seed=0, target="toy")


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory, small_splits):
    document = {
        "model": {"architecture": "cnn", "width": 0.25, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
        "seed": 1,
    }
    target = train(TargetConfig.parse(document, source="test"), small_splits, device=torch.device("cpu"))
    folder = tmp_path_factory.mktemp("evaluator") / "judge"
    save(folder, "judge", target)
    return folder


@pytest.fixture
def given(tmp_path, small_splits):
    """``given(images)`` writes what an attack might have left, in another order than that of the classes."""

    def make(images, public=None, **changes):
        order = np.random.default_rng(1).permutation(len(images)).tolist()
        Reconstructions(tuple(map(str, order)), images[order]).save(tmp_path / "attack" / "reconstructions.npz")
        attack = {
            "attack": "mi-face",
            "config": {"steps": 2},
            "seed": 0,
            "queries": 0,
            "draws": 1,
            "knowledge": ["model"],
            "ignores_output_policy": True,
            "findings": {},
            "provenance": {},
            "public_hashes": (public or small_splits.public).hashes(),
            **changes,
        }
        write_json(tmp_path / "attack" / "attack.json", attack)
        small_splits.train.save(tmp_path / "train.npz")
        return tmp_path

    return make


def means(images):
    floats, labels = images.pixels.double().numpy() / 255, images.labels.numpy()
    return np.stack([floats[labels == label].mean(0) for label in range(10)])


def test_every_class_is_judged_by_evaluator_template_pixels_and_target(artifact, evaluator, given, small_splits):
    truth = means(small_splits.train)
    draw = np.random.default_rng(0)
    rebuilt = torch.from_numpy((truth[[0, 1, 2, 3, 4, 6, 5, 7, 8, 9]] + draw.normal(0, 0.05, truth.shape)).clip(0, 1))
    folder = given(rebuilt.float())
    record = make_class_record(artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score")
    assert record == load_record(folder / "score")
    score = record.scores
    assert (record.n, record.chance) == (10, 0.1)
    assert score["mse"].values == pytest.approx(((rebuilt.numpy() - truth) ** 2).mean((1, 2, 3)), abs=1e-5)
    likeness = np.corrcoef(rebuilt.numpy().reshape(10, -1), truth.reshape(10, -1))[:10, 10:]
    assert score["nearest_mean"].values == tuple(likeness.argmax(1) == range(10))
    assert score["nearest_mean"].mean <= 0.8
    for name, folder_of in (("target_confidence", artifact), ("recognised", evaluator)):
        model = load_whole(folder_of, torch.device("cpu"), seed=0)
        with torch.no_grad():
            said = model.cloud.head(model.edge.encoder(rebuilt.float())).softmax(1)
        own = said.diagonal() if name == "target_confidence" else (said.argmax(1) == torch.arange(10)).float()
        assert score[name].values == pytest.approx(own.tolist(), abs=1e-5)
        assert score[name].mean == pytest.approx(float(own.mean()), abs=1e-5)


def test_the_record_says_what_was_attacked_how_and_who_judged(artifact, evaluator, given, small_splits):
    folder = given(torch.rand(10, 1, 16, 16))
    record = make_class_record(artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score", PLACE)
    assert record.cell == PLACE
    assert (record.target.name, record.target.digest) == ("toy", artifact_digest(artifact))
    assert record.threat_model.ignores_output_policy is True
    assert record.threat_model.sees == "nothing"
    assert "public_hashes" not in record.document()["attack"]
    assert record.evaluator.accuracy == read_record(evaluator)["accuracy"]
    assert 0 <= record.evaluator.on_truth <= 1
    assert {"commit", "hardware", "torch", "time", "command", "version"} <= record.document()["provenance"].keys()
    assert record.images == {
        "scored": digest(sorted(small_splits.train.hashes())),
        "public": digest(sorted(small_splits.public.hashes())),
    }
    with np.load(folder / "score" / "pictures.npz") as pictures:
        assert pictures["classes"].tolist() == list(range(10))
        assert pictures["truth"].shape == pictures["rebuilt"].shape == (10, 1, 16, 16)
        assert pictures["truth"].dtype == pictures["rebuilt"].dtype == np.uint8


def test_the_same_cell_has_the_same_id_and_another_seed_or_place_changes_only_what_it_should(
    artifact, evaluator, given
):
    images = torch.rand(10, 1, 16, 16)

    def judged(place=None, **changes):
        folder = given(images, **changes)
        out = folder / "score"
        return make_class_record(
            artifact, folder / "attack", folder / "train.npz", evaluator, out, place, force=True
        ).id

    first = judged()
    assert judged(PLACE) == first
    for changed in ({"seed": 1}, {"config": {"steps": 3}}, {"queries": 9}, {"knowledge": ["query"]}):
        assert judged(**changed) != first


def test_black_pictures_are_nobodys(artifact, evaluator, given):
    folder = given(torch.zeros(10, 1, 16, 16))
    score = make_class_record(artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score").scores
    assert score["nearest_mean"].mean == 0
    assert score["recognised"].mean <= 0.1


def test_an_attacker_who_owned_a_training_image_gets_no_record(artifact, evaluator, given, small_splits):
    folder = given(torch.rand(10, 1, 16, 16), public=small_splits.train)
    with pytest.raises(ValueError, match="600 of them are the same"):
        make_class_record(artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score")
    assert not (folder / "score").exists()


def test_the_target_is_no_judge_of_itself(artifact, given):
    folder = given(torch.rand(10, 1, 16, 16))
    with pytest.raises(ValueError, match="got the target itself"):
        make_class_record(artifact, folder / "attack", folder / "train.npz", artifact, folder / "score")


def test_other_images_than_those_of_the_training_are_refused(artifact, evaluator, given, small_splits):
    folder = given(torch.rand(10, 1, 16, 16))
    small_splits.test.save(folder / "train.npz")
    with pytest.raises(ValueError, match="expected the images that 'toy' was trained on"):
        make_class_record(artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score")


def test_several_pictures_of_a_class_are_judged_one_by_one(artifact, evaluator, given):
    folder = given(torch.rand(10, 1, 16, 16))
    pictures = torch.rand(10, 3, 1, 16, 16)
    made = Reconstructions.of_classes(pictures)
    Reconstructions(made.ids[::-1], made.images.flip(0)).save(folder / "attack" / "reconstructions.npz")
    record = make_class_record(artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score")
    score, model = record.scores, load_whole(evaluator, torch.device("cpu"), seed=0)
    hits = torch.from_numpy(model.predict(pictures.flatten(0, 1).numpy())).argmax(1).view(10, 3)
    hits = (hits == torch.arange(10)[:, None]).double()
    assert record.n == 30
    assert score["recognised"].images == tuple(map(tuple, hits.tolist()))
    assert score["recognised"].values == pytest.approx(hits.mean(1).tolist(), abs=1e-6)
    assert score["recognised"].mean == pytest.approx(float(hits.mean()))
    with np.load(folder / "score" / "pictures.npz") as shown:
        assert shown["rebuilt"].shape == (10, 1, 16, 16)
        assert np.array_equal(shown["all"][:, 0], shown["rebuilt"])


def test_other_peoples_images_are_distractors(artifact, evaluator, given, small_splits):
    folder = given(torch.rand(10, 1, 16, 16))
    small_splits.victims.save(folder / "others.npz")
    inputs = (artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score")
    records = [make_class_record(*inputs, others=each) for each in (None, folder / "others.npz")]
    alone, among = (record.figures.identification for record in records)
    assert (alone.distractors, among.distractors) == (0, 10)
    assert records[0].id == records[1].id


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_the_images_of_the_prior_that_was_searched_are_judged_and_no_others(
    artifact, evaluator, given, small_splits, conditional
):
    config = PriorConfig(width=2, batch_size=8, iterations=2, conditional=conditional)
    prior = train_prior(config, small_splits.public, Run())
    folder = given(torch.rand(10, 1, 16, 16))
    prior.save(folder / "prior")
    inputs = (artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score")
    figures = make_class_record(*inputs, prior=folder / "prior").figures
    assert figures.prior.samples == sum(figures.prior.histogram) == 500
    assert sum(figures.prior.shares) == pytest.approx(1)
    assert make_class_record(*inputs).figures.prior is None
    given(torch.rand(10, 1, 16, 16), public=small_splits.test)
    with pytest.raises(ValueError, match="expected the prior that was searched, got one of 300 other images"):
        make_class_record(*inputs, prior=folder / "prior")


def test_a_record_of_one_picture_a_class_reads_as_it_always_did(artifact, evaluator, given):
    folder = given(torch.rand(10, 1, 16, 16))
    record = make_class_record(artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score")
    assert record.document()["scores"]["recognised"].keys() == {"mean", "std", "values"}
    with np.load(folder / "score" / "pictures.npz") as shown:
        assert set(shown) == {"classes", "truth", "rebuilt"}


def test_another_prior_is_another_cell(artifact, evaluator, given):
    def judged(**changes):
        folder = given(torch.rand(10, 1, 16, 16, generator=torch.Generator().manual_seed(0)), **changes)
        return make_class_record(
            artifact, folder / "attack", folder / "train.npz", evaluator, folder / "score", force=True
        ).id

    assert len({judged(), judged(prior="one"), judged(prior="two")}) == 3


def test_a_class_without_an_image_has_no_mean():
    pixels, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 2])
    with pytest.raises(ValueError, match=r"expected images of each of 3 classes, got \[1, 0, 1\]"):
        class_means(Images(pixels, labels, ("a", "b", "c")), 3)


def test_the_command_passes_on_what_it_is_given(artifact, evaluator, given):
    folder = given(torch.rand(10, 1, 16, 16))
    (folder / "cell.json").write_text(PLACE.model_dump_json())
    asked = ("--artifact", artifact, "--attack", folder / "attack", "--train-images", folder / "train.npz")
    place = ("--evaluator", evaluator, "--cell", folder / "cell.json", "--out", folder / "score", "--json")
    place += ("--others", folder / "train.npz")
    told = CliRunner().invoke(app, ["score-classes", *map(str, (*asked, *place))], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    record = load_record(folder / "score")
    assert record.cell == PLACE
    assert record.figures.identification.distractors == 10
    found = json.loads(told.stdout)
    assert found["recognised"] == record.mean("recognised")
    assert (found["evaluator_accuracy"], found["chance"]) == (record.evaluator.accuracy, 0.1)


def test_an_embedder_of_ones_own_judges_too_and_is_in_tables_where_it_does(
    artifact, evaluator, given, embedder, small_splits
):
    folder = given(small_splits.train.floats()[[int((small_splits.train.labels == c).nonzero()[0]) for c in range(10)]])
    asked = ("--artifact", artifact, "--attack", folder / "attack", "--train-images", folder / "train.npz")
    asked += ("--evaluator", evaluator, "--embedder", embedder, "--out", folder / "with" / "score", "--json")
    told = CliRunner().invoke(app, ["score-classes", *map(str, asked)], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    with_one = load_record(folder / "with" / "score")
    at = with_one.figures.embedded.at["0.01"]
    assert json.loads(told.stdout)["embedded_0.01"] == at.rebuilt.rate
    assert at.others.rate <= 0.01 < at.true.rate
    without = make_class_record(
        artifact, folder / "attack", folder / "train.npz", evaluator, folder / "without" / "score"
    )
    assert with_one.id == without.id
    names = {
        "embedded": at.rebuilt.rate,
        "embedded_true": at.true.rate,
        "embedded_others": at.others.rate,
        "embedded_error": at.rebuilt.error,
    }
    for name, value in names.items():
        assert metric_named(name, "classes").value(Reading(with_one)) == pytest.approx(100 * value)
        assert metric_named(name, "classes").value(Reading(without)) is None
    assert "embedded" in {metric.name for metric, _ in headline(with_one)}
    columns = {}
    for name in ("with", "without"):
        write_report(folder / name, folder / "report" / name)
        table = (folder / "report" / name / "table.csv").read_text()
        columns[name] = table.splitlines()[0].split(",")
    assert [name for name in columns["with"] if name not in columns["without"]] == [
        *("embedded", "embedded_error", "embedded_true", "embedded_others"),
        *("embedded_strict", "embedded_strict_error", "embedded_strict_true", "embedded_strict_others"),
    ]
    assert load_record(folder / "with" / "score").brief().figures.embedded == with_one.figures.embedded

import dataclasses

import pytest
import torch
from torch.nn import functional

from splitleak.artifacts import write_json
from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.record.class_figures import class_figures, prior_figures, whole_features
from splitleak.eval.record.evaluator import Evaluator
from splitleak.eval.record.schema import Rates
from splitleak.measures.frechet import frechet_distance

CPU = torch.device("cpu")


def trained(folder, splits, classes=10, **changes):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": classes},
        "training": {"epochs": 3, "batch_size": 32},
        "seed": 1,
        **changes,
    }
    save(folder, folder.name, train(TargetConfig.parse(document, source="test"), splits, device=CPU))
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory, artifact, small_splits):
    return Evaluator.load(trained(tmp_path_factory.mktemp("judge") / "judge", small_splits), artifact)


@pytest.fixture(scope="module")
def target(artifact):
    return load_whole(artifact, CPU, seed=0)


def of_every_class(images, each):
    """``(K, R, C, H, W)`` of ``images``."""
    floats = images.floats()
    return torch.stack([floats[images.labels == label][:each] for label in range(10)])


def test_private_images_themselves_are_as_good_as_it_gets(target, judge, small_splits):
    private = small_splits.train
    found = class_figures(target, judge, of_every_class(private, 6), private)
    assert not any(any(row) for row in found.delta_eval.images)
    assert found.delta_eval_squared.mean == 0
    assert found.centroid_eval.mean > 0
    assert found.diversity_eval.precision == 1
    assert found.diversity_eval.k == 3
    noise = class_figures(target, judge, torch.rand(10, 6, 1, 16, 16), private)
    assert found.top1.mean > noise.top1.mean + 0.2
    assert found.frechet_eval.distance < noise.frechet_eval.distance
    assert found.frechet_eval.rebuilt == 60
    assert found.frechet_eval.private == len(private) == 600


def test_what_is_known_of_the_private_images_is_not_asked_again(target, judge, small_splits, monkeypatch):
    by_class, asked = of_every_class(small_splits.public, 2), []

    def counted(model, images):
        asked.append(len(images))
        return whole_features(model, images)

    monkeypatch.setattr("splitleak.eval.record.class_figures.whole_features", counted)
    known = {}
    found = [class_figures(target, judge, by_class, small_splits.train, cache=known) for _ in range(2)]
    assert found[0] == found[1]
    assert asked == [20, 600, 20]
    class_figures(target, judge, by_class, small_splits.public, cache=known)
    assert asked[-1] == len(small_splits.public)


def test_hits_are_the_evaluators_and_confidence_the_targets(target, judge, small_splits):
    by_class = of_every_class(small_splits.public, 4)
    found = class_figures(target, judge, by_class, small_splits.train)
    with torch.no_grad():
        said = judge.model.cloud.head(judge.model.edge.encoder(by_class.flatten(0, 1)))
        sure = target.cloud.head(target.edge.encoder(by_class.flatten(0, 1))).softmax(1)
    labels = torch.arange(10).repeat_interleave(4)
    expected = (said.argmax(1) == labels).view(10, 4).int()
    assert found.top1.hits == tuple(map(tuple, expected.tolist()))
    assert found.top1.mean == pytest.approx(float(expected.float().mean()))
    five = (said.topk(5, 1).indices == labels[:, None]).any(1)
    assert found.top5.mean == pytest.approx(float(five.float().mean()))
    confidence = sure[torch.arange(40), labels].double()
    assert torch.tensor(found.target_confidence.images).flatten().tolist() == pytest.approx(
        confidence.tolist(), abs=1e-5
    )
    assert found.confidence_gap == pytest.approx(float(confidence.mean()) - found.top1.mean, abs=1e-5)
    assert (found.chance, found.classes, found.images_per_class, found.n) == (0.1, 10, 4, 40)


def test_distances_are_between_the_evaluators_features(target, judge, small_splits):
    by_class, private = of_every_class(small_splits.public, 2), small_splits.train
    found = class_figures(target, judge, by_class, private)
    rebuilt, logits = whole_features(judge.model, by_class.flatten(0, 1))
    own, _ = whole_features(judge.model, private.floats())
    assert logits.shape == (20, 10)
    nearest = [float((own[private.labels == i // 2] - rebuilt[i]).norm(dim=1).min()) for i in range(20)]
    assert torch.tensor(found.delta_eval.images).flatten().tolist() == pytest.approx(nearest, rel=1e-4)
    squares = sum(each**2 for each in nearest) / 20
    assert found.delta_eval_squared.mean == pytest.approx(squares, rel=1e-4)
    assert found.frechet_eval.distance == pytest.approx(frechet_distance(rebuilt, own))
    assert found.frechet_eval.dimensions == own.shape[1]


def test_a_picture_is_looked_up_in_a_gallery_of_private_images_and_distractors(target, judge, small_splits):
    private = small_splits.train
    copies = class_figures(target, judge, of_every_class(private, 3), private).identification
    assert (copies.rank1, copies.rank5, copies.ranks) == (1, 1, ((1,) * 3,) * 10)
    assert (copies.people, copies.distractors, copies.gallery, copies.chance) == (10, 0, 600, 0.1)
    assert copies.to_others is None
    assert copies.private_alone == Rates(chance=0.1, rank1=1, rank5=1)
    by_class, others = of_every_class(small_splits.public, 3), small_splits.victims
    others = others.select(
        (others.labels % 2 == 1).nonzero().flatten()
    )  # five of their classes, as if they were others
    found = class_figures(target, judge, by_class, private, others=others).identification
    assert (found.people, found.distractors, found.gallery) == (15, 5, 600 + len(others))
    probes, own, far = (
        functional.normalize(whole_features(judge.model, images)[0].double(), dim=1)
        for images in (by_class.flatten(0, 1), private.floats(), others.floats())
    )
    near = torch.stack([(probes @ own[private.labels == label].T).amax(1) for label in range(10)], 1)
    away = torch.stack([(probes @ far[others.labels == label].T).amax(1) for label in range(1, 10, 2)], 1)
    ranks = (torch.cat([near, away], 1) >= near[torch.arange(30), torch.arange(30) // 3][:, None]).sum(1)
    assert found.ranks == tuple(map(tuple, ranks.view(10, 3).tolist()))
    assert found.rank1 == pytest.approx(float((ranks == 1).float().mean()))
    assert found.rank5 == pytest.approx(float((ranks <= 5).float().mean()))
    first = near.argmax(1) == torch.arange(30) // 3
    assert found.private_alone.rank1 == pytest.approx(float(first.float().mean()))
    assert found.to_others == pytest.approx(float((away.amax(1) > near.amax(1)).float().mean()))
    verified = found.verification
    assert (verified.false_match_rate, verified.comparisons) == (0.01, 30 * 14)
    assert 0 <= verified.true_match_rate <= 1


def test_what_few_images_cannot_tell_is_null(target, judge, small_splits, tmp_path):
    one = class_figures(target, judge, of_every_class(small_splits.public, 1), small_splits.train)
    assert one.diversity_eval is None
    assert one.top1.std_image_index is None
    assert one.identification.verification.true_match_rate is None  # 90 comparisons, and one of a hundred
    two = class_figures(target, judge, of_every_class(small_splits.public, 2), small_splits.train)
    assert two.diversity_eval.k == 1
    write_json(
        tmp_path / "score.json", {"one": one.document(), "two": two.document()}
    )  # which refuses what is not a number


def test_the_first_five_of_five_classes_are_no_figure(tmp_path, small_splits):
    def few(images):
        kept = images.select((images.labels < 5).nonzero().flatten())
        return dataclasses.replace(kept, classes=kept.classes[:5])

    parts = {part: few(getattr(small_splits, part)) for part in ("train", "public", "victims", "test")}
    splits = type(small_splits)(**parts, record=small_splits.record)
    target = trained(tmp_path / "target", splits, classes=5)
    judge = Evaluator.load(trained(tmp_path / "judge", splits, classes=5, seed=2), target)
    found = class_figures(load_whole(target, CPU, seed=0), judge, torch.rand(5, 2, 1, 16, 16), splits.train)
    assert found.top5 is found.identification.rank5 is None
    assert found.top1.mean <= 1


def test_a_generator_that_never_draws_a_class_is_found_out(judge, small_splits):
    logits = whole_features(judge.model, small_splits.train.floats())[1]
    kept = small_splits.train.floats()[logits.argmax(1) != 3]
    found = prior_figures(judge, kept)
    assert found.shares[3] == 0
    assert found.classes_drawn == len(set(logits.argmax(1).tolist()) - {3})
    assert sum(found.shares) == pytest.approx(1)
    assert sum(found.histogram) == found.samples == len(kept)
    highest = logits.softmax(1).amax(1)[logits.argmax(1) != 3]
    assert found.confidence == pytest.approx(float(highest.mean()), abs=1e-5)
    assert found.histogram[9] == pytest.approx(int((highest >= 0.9).sum()), abs=1)


@pytest.mark.parametrize("shape", [(9, 2, 1, 16, 16), (10, 2, 1, 20, 20), (10, 0, 1, 16, 16)])
def test_anything_but_images_of_every_class_is_refused(target, judge, small_splits, shape):
    with pytest.raises(ValueError, match=r"expected images \(10, R, \*\(1, 16, 16\)\) of every class"):
        class_figures(target, judge, torch.rand(shape), small_splits.train)

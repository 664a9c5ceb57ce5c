import dataclasses

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.brep import BREPMI, BREPConfig
from splitleak.attacker.class_inversion.features import FeatureGoal, MatchedFeatures, top_public_images
from splitleak.attacker.class_inversion.gmi import GMI, GMIConfig
from splitleak.attacker.class_inversion.search import Search
from splitleak.attacker.run import AttackConfig
from splitleak.defenses.classes.low_rank import LowRankHead

MATCHED = {"loss": "features", "each": 5}


def attacked(searched, run=None, *, model=None, **settings):
    attack = GMI(GMIConfig(**{"steps": 20, "restarts": 2, "identity": MATCHED, **settings}))
    return attack, attack(searched if model is None else dataclasses.replace(searched, model=model), run)


def with_low_rank_head(searched, scale=1.0):
    """The model with a head that saturates the more, the larger ``scale`` is."""
    torch.manual_seed(0)
    head = LowRankHead(32, 4, 10, "tanh")
    with torch.no_grad():
        head.down.weight *= scale
    return nn.Sequential(*searched.model[:-1], head).requires_grad_(False).eval()


def test_a_goal_has_the_values_worked_out_by_hand():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]])  # of mean (1, 2) and spread 1 + 4
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    goal = FeatureGoal.of(nn.Identity(), features, scores, each=2)
    assert goal.spread == 5
    assert goal.means.tolist() == [[1, 0], [1, 4]]
    found = goal.distance(torch.tensor([[4.0, 4.0], [4.0, 4.0], [1.0, 0.0]]), torch.tensor([0, 1, 0]))
    assert found.tolist() == pytest.approx([5, 1.8, 0])


def test_those_stand_for_a_class_that_the_model_is_surest_of():
    scores = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]])
    assert top_public_images(scores, 2).tolist() == [[2, 1], [0, 1]]
    assert sorted(top_public_images(scores, 9)[0].tolist()) == [0, 1, 2]


def test_features_that_are_all_the_same_or_none_are_no_goal():
    for features in (torch.ones(3, 2), torch.empty(0, 2)):
        with pytest.raises(ValueError, match=f"public images that differ, got {len(features)}"):
            FeatureGoal.of(nn.Identity(), features, torch.ones(len(features), 4), 2)


@pytest.mark.parametrize("low_rank", [False, True])
def test_the_loss_is_the_distance_before_the_head_to_the_mean_of_what_the_model_takes_for_the_class(searched, low_rank):
    model = with_low_rank_head(searched) if low_rank else searched.model
    attack = GMI(GMIConfig(identity=MATCHED))
    search = attack.prepare(dataclasses.replace(searched, model=model), Run())
    features = model[:-1](searched.public)
    means = torch.stack([features[row].mean(0) for row in model(searched.public).softmax(1).T.topk(5).indices])
    spread = (features - features.mean(0)).square().sum(1).mean()
    labels = torch.tensor([4, 0, 9])
    expected = (features[:3] - means[labels]).square().sum(1) / spread
    assert features.shape[1] == 32, "not the four values within the head"
    assert torch.allclose(attack.identity(search, searched.public[:3], labels), expected, atol=1e-4)
    apart = torch.stack([search.goal.distance(features, torch.full((len(features),), each)) for each in range(10)])
    assert 0.1 < apart.mean() < 10


def test_public_images_are_needed_then_and_only_then(searched):
    assert GMI(GMIConfig()).needs == GMI.needs == {"model", "prior"}
    assert GMI(GMIConfig(identity=MATCHED)).needs == {"model", "prior", "public"}
    with pytest.raises(PermissionError, match="'gmi' needs 'public'"):
        attacked(dataclasses.replace(searched, public=None))


def test_no_public_image_at_all_is_refused(searched):
    with pytest.raises(ValueError, match="'gmi': expected features of public images that differ, got 0"):
        attacked(dataclasses.replace(searched, public=searched.public[:0]))


def test_an_attack_without_the_weights_has_no_features_to_match():
    with pytest.raises(ValueError, match="'brep-mi': expected a white box to match features, got labels"):
        BREPMI(BREPConfig(identity=MATCHED))


def test_a_model_without_a_known_head_is_refused(searched):
    for model in (nn.Sequential(*searched.model, nn.Softmax(1)), _Whole(searched.model)):
        with pytest.raises(ValueError, match=r"attack 'gmi': expected a (model|head)"):
            attacked(searched, model=model)


def test_the_documents_of_other_losses_say_nothing_of_it():
    assert GMIConfig().document()["identity"] == "cross-entropy"
    assert GMIConfig(identity={"loss": "features"}).document()["identity"] == {"loss": "features", "each": 30}
    asked = AttackConfig(attack="ppa", settings={"identity": {"loss": "features", "each": 7}})
    assert asked.build().config.identity == MatchedFeatures(loss="features", each=7)


def test_the_images_that_the_model_saw_are_counted(searched):
    attack, _ = attacked(searched, steps=3)
    blank, fingerprint, last = 1, 10, 20
    assert attack.findings["evaluations"] == blank + fingerprint + 3 * 20 + last
    assert 0 < attack.findings["history"][-1]["confidence"] < 1  # by which a report sees whether it ended too early


def test_it_draws_images_nearer_to_the_class_before_a_head_that_hides_its_gradients(searched):
    hidden = with_low_rank_head(searched, scale=1000)
    before, after, plain = (
        _apart(searched, hidden, attacked(searched, model=hidden, **settings)[1])
        for settings in ({"steps": 0}, {"steps": 60}, {"steps": 60, "identity": "cross-entropy"})
    )
    assert after < 0.5 * before
    assert after < 0.7 * plain


@pytest.mark.slow
def test_an_interrupted_search_goes_on_to_the_bit_and_with_other_public_images_from_the_start(
    searched, tmp_path, killed
):
    expected = attacked(searched, steps=80)[1]
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        attacked(searched, Run(report=killed(3), checkpoint=checkpoint), steps=80)
    heard = []
    run = Run(report=lambda what, done, total, figures: heard.append(done), checkpoint=checkpoint)
    found = attacked(searched, run, steps=80)[1]
    assert heard[0] == 2
    assert torch.equal(found, expected)
    with pytest.raises(KeyboardInterrupt):
        attacked(searched, Run(report=killed(3), checkpoint=checkpoint), steps=80)
    heard.clear()
    attacked(dataclasses.replace(searched, public=searched.public[100:]), run, steps=80)
    assert heard[0] == 1


def _apart(searched, model, images):
    """The mean distance of images ``(10, R, C, H, W)`` from their classes' goals."""
    attack = GMI(GMIConfig(identity=MATCHED))
    search: Search = attack.prepare(dataclasses.replace(searched, model=model), Run())
    labels = search.labels(images.shape[1])
    return float(attack.identity(search, images.flatten(0, 1), labels).mean())


class _Whole(nn.Module):
    """A model that is no sequence of layers."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, images):
        return self.layers(images)

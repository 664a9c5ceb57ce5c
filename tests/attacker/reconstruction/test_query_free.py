import copy
import dataclasses

import pytest
import torch

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.reconstruction.query_free import QueryFreeAttack, QueryFreeConfig
from splitleak.defenses.training import TargetConfig, train
from splitleak.measures.pixel import mse
from splitleak.models.split import build
from splitleak.seeding import resolve_device

pytestmark = pytest.mark.slow

QUICK = QueryFreeConfig(epochs=12, shadow_batch_size=16, decoder_epochs=6, iterations=25)


@pytest.fixture(scope="module")
def target(small_splits):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 4, "batch_size": 32},
    }
    return train(TargetConfig.parse(document, source="test"), small_splits, device=resolve_device("cpu"))


@pytest.fixture(scope="module")
def known(target, small_splits):
    target.model.requires_grad_(False).eval()
    return Knowledge(
        captured=target.model.encoder(small_splits.victims.floats()),
        image_shape=(1, 16, 16),
        public=small_splits.public.floats(),
        labels=small_splits.public.labels,
        head=target.model.head,
        fresh_encoder=lambda: build(target.config.model).encoder,
    )


@pytest.fixture(scope="module")
def done(known):
    """An attack that was run, and what it rebuilt."""
    attack = QueryFreeAttack(QUICK)
    return attack, attack(known)


@pytest.mark.slow
def test_without_a_query_it_rebuilds_better_than_the_mean_image(done, known, small_splits):
    truth, (attack, rebuilt) = small_splits.victims.floats(), done
    assert mse(rebuilt, truth).mean() < 0.9 * mse(known.public.mean(0).expand_as(truth), truth).mean()
    assert attack.findings["gradient_norm_start"] > 0
    assert len(attack.findings["shadow"]) == 12


def test_the_head_classifies_what_the_shadow_sends(done, known, target):
    attack, _ = done
    shadow = build(target.config.model).encoder
    shadow.load_state_dict(attack.weights())
    right = known.head(shadow.eval()(known.public)).argmax(1) == known.labels
    assert right.float().mean() > 0.5
    assert attack.findings["shadow"][-1]["loss"] < attack.findings["shadow"][0]["loss"]


def test_the_head_and_the_callers_randomness_stay_as_they_are(known):
    before = {name: value.clone() for name, value in known.head.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    QueryFreeAttack(QUICK.model_copy(update={"epochs": 1, "shadow_batch_size": 64, "decoder_epochs": 1}))(known)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in known.head.state_dict().items())


def test_an_encoder_to_other_features_than_the_captured_is_refused(known, target):
    captured = torch.zeros(3, 5, 4, 4)
    with pytest.raises(ValueError, match=r"query-free: expected an encoder to features \(5, 4, 4\), got "):
        QueryFreeAttack(QUICK.model_copy(update={"epochs": 1}))(dataclasses.replace(known, captured=captured))


def test_interrupted_in_the_shadows_training_and_taken_up_again_it_gives_the_same(known, tmp_path, killed):
    config = QUICK.model_copy(update={"epochs": 3, "shadow_batch_size": 64, "decoder_epochs": 1})
    whole = QueryFreeAttack(config)(known, Run(seed=2))
    with pytest.raises(KeyboardInterrupt):
        QueryFreeAttack(config)(known, Run(seed=2, checkpoint=tmp_path / "checkpoint", report=killed(2, "shadow")))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.shadow"]
    again = QueryFreeAttack(config)(known, Run(seed=2, checkpoint=tmp_path / "checkpoint"))
    assert torch.equal(again, whole)
    assert not list(tmp_path.iterdir())


def test_a_shadow_that_was_trained_before_another_head_is_not_taken_up(known, tmp_path, killed):
    config = QUICK.model_copy(update={"epochs": 3, "shadow_batch_size": 64, "decoder_epochs": 1})
    with pytest.raises(KeyboardInterrupt):
        QueryFreeAttack(config)(known, Run(seed=2, checkpoint=tmp_path / "checkpoint", report=killed(2, "shadow")))
    head = copy.deepcopy(known.head)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(0.5)
    other = dataclasses.replace(known, head=head)
    again = QueryFreeAttack(config)(other, Run(seed=2, checkpoint=tmp_path / "checkpoint"))
    assert torch.equal(again, QueryFreeAttack(config)(other, Run(seed=2)))


def test_the_papers_preset_is_the_published_one():
    paper = QueryFreeAttack.paper_config()
    assert (paper.epochs, paper.shadow_batch_size, paper.shadow_learning_rate) == (50, 32, 1e-3)
    assert (paper.iterations, paper.learning_rate, paper.tv_weight, paper.start) == (500, 0.1, 2.0, "mean")

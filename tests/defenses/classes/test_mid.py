import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from splitleak.defenses.artifact import load_cloud, load_whole, save
from splitleak.defenses.classes.mid import VariationalHead
from splitleak.defenses.training import assemble, train

CPU = torch.device("cpu")


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_code_is_half_as_wide_and_starts_nearly_without_noise():
    head = VariationalHead(7, 10, noise_at_test=False)
    assert (head.posterior.out_features, head.classifier.in_features) == (6, 3)
    with torch.no_grad():
        head.posterior.weight.zero_()
        head.posterior.bias.zero_()
        head.classifier.weight.copy_(torch.eye(10, 3))
        head.classifier.bias.zero_()
    head.generator = torch.Generator().manual_seed(0)
    codes = head(torch.zeros(20000, 7))[:, :3]
    assert float(codes.detach().std()) == pytest.approx(0.0067153, rel=0.02)
    expected = 3 * -0.5 * (1 + 2 * np.log(0.0067153) - 0.0067153**2)
    assert float(head.divergence.detach()) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_the_mean_path_answers_alike_and_noise_at_test_does_not():
    features = drawn(0, 4, 6)
    quiet = VariationalHead(6, 3, noise_at_test=False).eval()
    noisy = VariationalHead(6, 3, noise_at_test=True).eval()
    noisy.load_state_dict(quiet.state_dict())
    assert torch.equal(quiet(features), quiet.classifier(quiet.posterior(features)[:, :3]))
    assert not torch.equal(noisy(features), noisy(features))
    many = torch.stack([noisy(features) for _ in range(200)])
    torch.testing.assert_close(many.mean(0), quiet(features), atol=3e-3, rtol=0)


def test_the_penalty_is_the_weighted_divergence_of_the_step_and_is_asked_for_once(small_target):
    model, stack = assemble(small_target({"name": "mid", "beta": 0.5}), "builtin")
    (defense,) = stack
    head = model.head[-1][-1]
    features = copy.deepcopy(model.head)
    features[-1][-1] = torch.nn.Identity()
    given = drawn(0, 5, *model.feature_shape)
    model.head(given)
    mean, raw = head.posterior(features(given)).chunk(2, 1)
    deviation = functional.softplus(raw - 5)
    expected = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).sum(1).mean()
    torch.testing.assert_close(defense.penalty(None), 0.5 * expected)
    assert defense.penalty(None) is None


@pytest.mark.slow
def test_a_stronger_penalty_leaves_less_in_the_code(small_target, small_splits):
    divergences = []
    for beta in (0.001, 0.1):
        target = train(small_target({"name": "mid", "beta": beta}, epochs=6), small_splits, device=CPU)
        divergences.append(target.record["history"][-1]["penalty"] / beta)
    assert divergences[1] < divergences[0] / 2


@pytest.fixture(scope="module")
def noisy(small_target, small_splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mid") / "noisy"
    document = {"name": "mid", "beta": 0.001, "noise_at_test": True}
    save(folder, "noisy", train(small_target(document, epochs=1), small_splits, device=CPU))
    return folder


def test_noise_at_test_is_served_fresh_or_by_seed_and_the_mean_over_calls_settles(noisy, small_splits):
    images = small_splits.victims.floats().numpy()
    whole = load_whole(noisy, CPU, seed=3)
    first, second = whole.predict(images), whole.predict(images)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(load_whole(noisy, CPU, seed=3).predict(images), first)
    assert not np.array_equal(load_whole(noisy, CPU).predict(images), load_whole(noisy, CPU).predict(images))


def test_onnx_is_not_taken_for_a_head_that_draws(noisy, caplog):
    assert load_cloud(noisy / "cloud", CPU, seed=0, engine="auto").properties["engine"] != "onnx"
    assert "engine 'onnx' is not used" in caplog.text
    with pytest.raises(RuntimeError, match="expected a half that engine 'onnx' can compute"):
        load_cloud(noisy / "cloud", CPU, seed=0, engine="onnx")


def test_onnx_is_taken_for_the_mean_path(small_target, small_splits, tmp_path):
    save(tmp_path / "a", "quiet", train(small_target("mid", epochs=1), small_splits, device=CPU))
    assert load_cloud(tmp_path / "a" / "cloud", CPU, engine="auto").properties["engine"] == "onnx"


def test_two_defenses_cannot_replace_one_layer(small_target):
    with pytest.raises(ValueError, match="mid: expected a head that ends in a linear layer, got LowRankHead"):
        assemble(small_target("low-rank", "mid"), "builtin")

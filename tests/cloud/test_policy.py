"""A policy acts in its stated order, keeps to the simplex, and cannot be talked out of fixed noise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitleak.cloud.policy import Policy, PolicyConfig
from splitleak.defenses.predictions.purifier import Purifier, PurifierConfig, save_purifier

PAPER = np.array([[0.6, 0.05, 0.06, 0.2, 0.09]])
LOGITS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-30, 30, width=32, allow_subnormal=False)
)


def policy(classes=5, seed=0, **settings):
    return Policy(PolicyConfig(**settings), classes=classes, seed=seed)


def logits_of(probabilities):
    return np.log(np.asarray(probabilities)).astype(np.float32)


@given(LOGITS)
def test_by_default_it_is_softmax_and_announces_nothing(logits):
    exact = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    np.testing.assert_allclose(policy(4)(logits), exact / exact.sum(1, keepdims=True), atol=1e-6)
    assert PolicyConfig().announced() == {}


@given(LOGITS, st.floats(0.1, 10))
def test_a_temperature_divides_the_logits(logits, temperature):
    hot = policy(4, temperature=temperature)(logits)
    np.testing.assert_allclose(hot, policy(4)((logits / temperature).astype(np.float32)), atol=1e-5)


@pytest.mark.parametrize(("step", "expected"), [(0.05, [0.60, 0.40]), (0.01, [0.61, 0.39]), (1.0, [1, 0])])
def test_scores_are_rounded_to_a_step(step, expected):
    rounded = policy(2, rounding=step)(logits_of([[0.613, 0.387]]))
    np.testing.assert_array_equal(rounded, np.array([expected], np.float32))


def test_a_row_may_round_to_zero_and_no_score_rounds_above_one():
    assert policy(4, rounding=0.6)(np.zeros((1, 4), np.float32)).tolist() == [[0, 0, 0, 0]]
    assert policy(4, rounding=0.6)(np.array([[99, 0, 0, 0]], np.float32)).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("m", "kept"), [(1, [0.6, 0, 0, 0, 0]), (2, [0.6, 0, 0, 0.2, 0]), (5, [0.6, 0.05, 0.06, 0.2, 0.09])]
)
def test_the_highest_scores_are_told_and_not_renormalised(m, kept):
    np.testing.assert_allclose(policy(top=m)(logits_of(PAPER)), [kept], atol=1e-6)


def test_a_label_alone_is_one_hot_and_ties_go_to_the_lower_class():
    told = policy(3, label_only=True)(np.array([[0, 2, 2], [1, 0, 0], [5, 5, 5]], np.float32))
    assert told.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_steps_act_in_their_order():
    """Rounded before truncation, .44 and .41 tie at .4; the lower class is told, and as .4."""
    assert policy(3, rounding=0.2, top=1)(logits_of([[0.41, 0.44, 0.15]])).tolist() == [[np.float32(0.4), 0, 0]]


@given(LOGITS, st.floats(0.01, 3), st.sampled_from(["fresh", "fixed"]))
def test_noisy_scores_are_on_the_simplex(logits, sigma, noise):
    scores = policy(4, sigma=sigma, noise=noise)(logits, logits)
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)


def test_noise_is_clipped_at_zero_and_the_rest_divided_by_its_sum():
    logits = logits_of(np.tile(PAPER, (400, 1)))
    drawn = torch.randn(400, 5, generator=policy(seed=3)._fresh).numpy()
    clipped = np.maximum(np.tile(PAPER, (400, 1)) + 2 * drawn, 0)
    total = clipped.sum(1, keepdims=True)
    assert (total == 0).any()
    with np.errstate(invalid="ignore"):
        expected = np.where(total > 0, clipped / total, 0.2)
    np.testing.assert_allclose(policy(seed=3, sigma=2.0)(logits), expected, atol=1e-5)


def mean_error(noise):
    """How far the mean of 64 answers is from the noiseless scores of 50 inputs, and how far one answer is."""
    inputs = np.random.default_rng(0).random((50, 1, 2, 2), np.float32)
    logits = logits_of(np.tile([[0.3, 0.2, 0.2, 0.2, 0.1]], (50, 1)))
    noisy, clean = policy(sigma=0.02, noise=noise), policy()(logits)
    answers = np.stack([noisy(logits, inputs) for _ in range(64)])
    return np.abs(answers.mean(0) - clean).mean(), np.abs(answers[0] - clean).mean()


def test_fresh_noise_is_averaged_away_by_asking_again():
    of_mean, of_one = mean_error("fresh")
    assert of_mean < of_one / 6


def test_fixed_noise_is_not_averaged_away():
    of_mean, of_one = mean_error("fixed")
    assert of_mean == pytest.approx(of_one, rel=1e-5)


def test_fixed_noise_follows_from_the_input_whatever_the_batch_and_the_last_bits_of_its_logits():
    noisy = policy(sigma=0.1, noise="fixed")
    inputs = np.random.default_rng(1).random((4, 3), np.float32)
    inputs[0, 0] = 0.0
    together = noisy(logits_of(np.tile(PAPER, (4, 1))), inputs)
    alone = np.concatenate([noisy(logits_of(PAPER + 1e-7), row[None]) for row in inputs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    inputs[0, 0] = -0.0
    np.testing.assert_array_equal(noisy(logits_of(PAPER), inputs[:1])[0], together[0])
    assert len({row.tobytes() for row in together}) == 4


def test_fixed_noise_is_another_under_another_secret_and_a_secret_is_drawn_where_none_is_given():
    inputs = np.zeros((1, 3), np.float32)

    def noise_of(seed):
        return policy(seed=seed, sigma=0.1, noise="fixed")(logits_of(PAPER), inputs)

    assert (noise_of(0) == noise_of(0)).all()
    assert (noise_of(0) != noise_of(1)).any()
    assert (noise_of(None) != noise_of(None)).any()


def test_fresh_noise_repeats_under_one_seed_only():
    first, again, other = (policy(seed=seed, sigma=0.1)(logits_of(PAPER)) for seed in (0, 0, None))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_purifier_acts_before_the_noise(tmp_path):
    torch.manual_seed(0)
    purifier = Purifier(5, PurifierConfig()).eval()
    save_purifier(tmp_path / "purifier", purifier, {})
    with torch.no_grad():
        expected = purifier(torch.from_numpy(policy()(logits_of(PAPER)))).numpy()
    np.testing.assert_allclose(policy(purifier=tmp_path / "purifier")(logits_of(PAPER)), expected, atol=1e-6)
    noisy = policy(purifier=tmp_path / "purifier", sigma=1e-4)(logits_of(PAPER))
    np.testing.assert_allclose(noisy, expected, atol=1e-3)
    with pytest.raises(ValueError, match="expected a purifier for 4 classes"):
        policy(4, purifier=tmp_path / "purifier")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        policy(purifier=tmp_path / "nowhere")


def test_more_scores_than_there_are_classes_are_refused_at_once():
    with pytest.raises(ValueError, match="expected top of at most the model's 5 classes, got 6"):
        policy(top=6)


@pytest.mark.parametrize(
    "settings", [{"top": 0}, {"temperature": 0}, {"sigma": -1}, {"label_only": True, "top": 1}, {"sigm": 1}]
)
def test_a_policy_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match="expected a PolicyConfig"):
        PolicyConfig.parse(settings, source="test")


@pytest.mark.parametrize("logits", [np.zeros((2, 4)), np.zeros(5), np.array([[0, np.nan, 0, 0, 0]])])
def test_what_are_no_logits_of_the_model_is_an_error(logits):
    with pytest.raises(ValueError, match=r"expected finite logits \(N, 5\)"):
        policy()(logits.astype(np.float32))


def test_what_is_on_is_announced_without_a_path_or_a_secret(tmp_path):
    told = PolicyConfig(top=3, sigma=0.1, noise="fixed", purifier=tmp_path).announced()
    assert told == {"top": 3, "sigma": 0.1, "noise": "fixed", "purifier": True}
    assert PolicyConfig(sigma=0.1).announced() == {"sigma": 0.1, "noise": "fresh"}
    assert PolicyConfig(label_only=True).announced() == {"label_only": True}


def test_fixed_noise_without_a_sigma_is_refused_rather_than_none():
    with pytest.raises(ValueError, match="expected a sigma above 0 of the noise that is to be fixed, got none"):
        PolicyConfig(noise="fixed")

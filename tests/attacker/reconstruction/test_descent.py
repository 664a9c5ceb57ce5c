from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.reconstruction.descent import (
    DescentConfig,
    Start,
    cleared,
    descend,
    drops,
    encode,
    evened,
    feature_errors,
    start_from,
)
from splitleak.measures.pixel import total_variation
from splitleak.training.modules import freeze

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)
CONFIG = DescentConfig(start="mean", iterations=300, learning_rate=0.1, box=False)


class Linear(nn.Module):
    """Features ``(N, 2, 4)`` that are half as many as the pixels, and linear in them."""

    def __init__(self):
        super().__init__()
        matrix = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
        self.matrix = nn.Parameter(matrix / 4, requires_grad=False)

    def forward(self, images):
        return (images.flatten(1) @ self.matrix.T).unflatten(1, (2, 4))


def grey(directions=None):
    """Starts from 0.5; pixels move alone by 0.1, or along directions."""
    moves = torch.full((16,), 0.1) if directions is None else directions
    return Start(lambda features: torch.full((len(features), *SHAPE), 0.5), moves, torch.ones(1, 1, 1))


def found(encoder, features, start=None, config=CONFIG, run=None, tv=0.0, l2=0.0):
    weights = {"tv_weights": torch.full((len(features),), tv), "l2_weights": torch.full((len(features),), l2)}
    return descend(encoder, features, start or grey(), config, run or Run(), name="descent", **weights)


def pictures(count, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_on_a_linear_encoder_it_ends_at_the_ridge_estimate():
    encoder, images = Linear(), pictures(5)
    features = encoder(images)
    matrix, weight = encoder.matrix.double(), 0.01
    # min |A s u - r|^2 / 8 + weight |u|^2 / 16, with s = 0.1 and r what the start does not explain
    rest = (features.flatten(1) - (torch.full_like(images, 0.5).flatten(1) @ encoder.matrix.T)).double()
    scaled = 0.1 * matrix
    moves = torch.linalg.solve(scaled.T @ scaled / 8 + weight / 16 * torch.eye(16), scaled.T @ rest.T / 8).T
    expected = 0.5 + 0.1 * moves.view_as(images)
    result = found(encoder, features, l2=weight)
    torch.testing.assert_close(result.images.double(), expected, atol=2e-3, rtol=0)
    assert result.feature_losses[0] == pytest.approx(float(rest.square().mean()), rel=1e-5)
    left = rest - moves @ scaled.T
    assert result.feature_losses[-1] == pytest.approx(float(left.square().mean()), rel=0.01)
    assert len(result.feature_losses) == 1 + 300 / 25
    gradient = (2 / 8) * (rest @ matrix).norm(dim=1).mean()
    assert result.gradient_norm == pytest.approx(float(gradient), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_priors_are_weighed_beside_errors_of_features_of_any_scale(scale):
    class Scaled(Linear):
        def forward(self, images):
            return scale * super().forward(images)

    encoder, public, moved = Scaled(), pictures(50, seed=1), []
    known = Knowledge(captured=encoder(pictures(5)), image_shape=SHAPE, public=public)
    for weight in (1e-4, 0.01, 1.0):
        start = start_from(CONFIG, encoder, encoder(public)[None], public, known, Run())
        images = found(encoder, known.captured, start, l2=weight).images
        moved.append(float((images - public.mean(0)).square().mean()))
    assert moved[0] > 1.2 * moved[1] > 1.44 * moved[2] > 0
    assert moved[0] > 0.01


@pytest.mark.slow
def test_what_becomes_of_an_image_does_not_depend_on_its_batch():
    encoder, features = Linear(), Linear()(pictures(7))
    whole = found(encoder, features, tv=0.01, l2=0.01)
    split = found(encoder, features, tv=0.01, l2=0.01, config=CONFIG.model_copy(update={"batch_size": 3}))
    alone = found(encoder, features[4:5], tv=0.01, l2=0.01)
    torch.testing.assert_close(split.images, whole.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.images, whole.images[4:5], atol=1e-5, rtol=0)


def test_images_move_along_the_directions_alone():
    directions = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    result = found(Linear(), Linear()(pictures(3)), grey(directions))
    moved = (result.images - 0.5).flatten(1)
    assert moved.abs().max() > 0.01
    inside = moved @ torch.linalg.pinv(directions) @ directions
    torch.testing.assert_close(inside, moved, atol=1e-5, rtol=0)


def test_smoothness_is_weighed_image_by_image():
    encoder, features = Linear(), Linear()(pictures(1)).repeat(3, 1, 1)
    weights = torch.tensor([0.0, 0.1, 10.0])
    result = descend(
        encoder, features, grey(), CONFIG, Run(), tv_weights=weights, l2_weights=torch.zeros(3), name="descent"
    )
    roughness = total_variation(result.images).tolist()
    assert roughness[0] > 2 * roughness[1] > 4 * roughness[2]


def test_in_a_box_the_encoder_sees_no_value_outside_of_0_and_1():
    seen = []

    class Watched(Linear):
        def forward(self, images):
            seen.append((float(images.detach().min()), float(images.detach().max())))
            return super().forward(images)

    features = 3 * Linear()(pictures(3))  # out of reach of any image
    free = found(Watched(), features)
    assert max(high for _, high in seen) > 1.2
    seen.clear()
    boxed = found(Watched(), features, config=CONFIG.model_copy(update={"box": True}))
    assert min(low for low, _ in seen) >= 0
    assert max(high for _, high in seen) <= 1
    assert boxed.feature_losses[-1] > free.feature_losses[-1]


def test_values_that_were_dropped_on_the_way_are_left_out():
    encoder, images = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Sigmoid()), pictures(6)
    freeze(encoder, CPU)
    sent = encoder(images)
    kept = torch.rand(sent.shape, generator=torch.Generator().manual_seed(0)) >= 0.3
    start = replace(grey(), drops=True)
    result = found(encoder, sent * kept, start, config=CONFIG.model_copy(update={"learning_rate": 0.3}))
    torch.testing.assert_close(result.images[kept], images[kept], atol=0.01, rtol=0)
    torch.testing.assert_close(result.images[~kept], torch.full_like(images, 0.5)[~kept])


def test_the_error_of_features_is_of_all_values_or_of_those_that_were_not_dropped():
    found, sent = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert feature_errors(found, sent, drops=False).tolist() == [1.0, 12.5]
    assert feature_errors(found, sent, drops=True).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.ReLU()])
def test_dropout_is_told_from_an_encoders_own_zeros_and_from_quantisation_to_zero(last):
    encoder, public, victims = nn.Sequential(Linear(), last), pictures(50, seed=1), pictures(20)
    own, captured, draw = encoder(public), encoder(victims), torch.Generator().manual_seed(0)

    def dropped(features):
        return features * (torch.rand(features.shape, generator=draw) >= 0.2)

    def quantised(features):
        return (features / own.max() * 3).round() / 3

    asked = [(dropped, dropped), (quantised, quantised), (lambda features: features,) * 2]
    told = [drops(encoder, public, send(own), sent(captured), CPU) for send, sent in asked]
    assert told == [True, False, False]
    if isinstance(last, nn.Sigmoid):  # by what was captured alone: an encoder without zeros of its own
        assert [drops(encoder, public, own, sent(captured), CPU) for _, sent in asked] == [True, False, False]


def test_what_was_dropped_before_noise_was_added_is_told_from_noise_alone():
    draw = torch.Generator().manual_seed(0)
    public = torch.rand(60, 1, 8, 8, generator=draw)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        own = encoder(public)
    kept = (torch.rand(own.shape, generator=draw) > 0.3).float()
    normal = torch.randn(own.shape, generator=draw)
    laplace = torch.empty_like(own).exponential_(generator=draw) - torch.empty_like(own).exponential_(generator=draw)
    for noise in (0.01 * normal, 0.01 * laplace):
        known = Knowledge(own[:7] + noise[:7], (1, 8, 8), public=public)
        assert cleared(encoder, (own + noise)[None], known, CPU)[1] is known
        known = Knowledge((kept * own + noise)[:7], (1, 8, 8), public=public)
        answers, seen = cleared(encoder, (kept * own + noise)[None], known, CPU)
        assert torch.equal(seen.captured, answers[0, :7])
        assert drops(encoder, public, answers[0], seen.captured, CPU)
        large = own > 0.1
        assert ((answers[0] == 0) == (kept == 0))[large].float().mean() > 0.98
        torch.testing.assert_close(
            answers[0][large & (kept == 1)], (own + noise)[large & (kept == 1)], atol=0.1, rtol=0
        )


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4, 3), (5, 3), (3,)])
def test_channels_that_drown_others_are_divided_alike_in_all_that_is_compared(shape):
    usual = torch.randn(2, 40, *shape, generator=torch.Generator().manual_seed(0))
    axis = 0 if shape == (3, 4, 4) else len(shape) - 1
    scale = torch.tensor([1.0, 500.0, 1.0]).view([3 if at == axis else 1 for at in range(len(shape))])
    known = Knowledge(usual[0, :7] * scale, (1, 8, 8), public=torch.rand(40, 1, 8, 8))
    encoder, answers, seen = evened(nn.Identity(), usual * scale, known, CPU)
    channels = answers.movedim(2 + axis, 0).flatten(1).std(1)
    assert channels.max() < 3 * channels.min()
    torch.testing.assert_close(seen.captured, answers[0, :7])
    torch.testing.assert_close(encoder(known.captured), seen.captured)
    bare = nn.Identity()
    assert evened(bare, usual, known, CPU) == (bare, usual, known)


def test_an_encoder_without_a_gradient_is_told_by_its_norm():
    class Steps(nn.Module):
        def forward(self, images):
            return (4 * images).round() / 4 + 0 * images

    result = found(Steps(), torch.ones(2, *SHAPE))
    assert result.gradient_norm == 0
    assert torch.equal(result.images, torch.full((2, *SHAPE), 0.5))
    assert result.feature_losses[0] == result.feature_losses[-1] > 0


def test_interrupted_and_taken_up_again_it_gives_the_same(tmp_path, killed):
    encoder, features, checkpoint = Linear(), Linear()(pictures(3)), tmp_path / "checkpoint"
    whole = found(encoder, features, l2=0.01)
    with pytest.raises(KeyboardInterrupt):
        found(encoder, features, l2=0.01, run=Run(checkpoint=checkpoint, report=killed(5)))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.descent"]
    done = []
    run = Run(checkpoint=checkpoint, report=lambda what, at, total, figures: done.append(at))
    again = found(encoder, features, l2=0.01, run=run)
    assert done[0] == 4
    assert torch.equal(again.images, whole.images)
    assert (again.feature_losses, again.gradient_norm) == (whole.feature_losses, whole.gradient_norm)
    assert not list(tmp_path.iterdir())


def test_from_the_mean_each_pixel_moves_by_its_channels_deviation():
    images = torch.rand(50, 3, 4, 4) * torch.tensor([0.1, 0.5, 1.0])[:, None, None]
    known = Knowledge(captured=torch.zeros(2, 3, 2, 2), image_shape=(3, 4, 4))
    start = start_from(CONFIG, nn.AvgPool2d(2), torch.zeros(1, 50, 3, 2, 2), images, known, Run())
    torch.testing.assert_close(start.centre(known.captured), images.mean(0).expand(2, 3, 4, 4))
    expected = images.transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(start.directions.view(3, 16), expected[:, None].expand(3, 16))
    torch.testing.assert_close(start.deviation.flatten(), expected)


def test_from_a_decoder_they_move_along_the_directions_of_its_errors(small_splits):
    images = small_splits.public.floats()[:80]
    features = functional.avg_pool2d(images, 2)
    known = Knowledge(captured=features[:3], image_shape=(1, 16, 16))
    config = DescentConfig(decoder_epochs=2)
    start = start_from(config, nn.AvgPool2d(2), features[None], images, known, Run(seed=1))
    errors = (start.centre(features) - images).flatten(1)
    covariance = errors.T @ errors / len(errors)
    torch.testing.assert_close(start.directions.T @ start.directions, covariance, atol=1e-4, rtol=0)
    assert len(start.directions) <= 80


def test_features_of_many_images_are_those_of_each():
    encoder, images = Linear(), pictures(600)
    torch.testing.assert_close(encode(encoder, images, CPU), encoder(images))

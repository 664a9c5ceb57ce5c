import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from splitleak.models.counting import count_macs
from splitleak.models.decoder import (
    LARGE,
    GridDecoder,
    ResidualBlock,
    ResNormDecoder,
    SubPixelDecoder,
    decoder_for,
    of_one_scale,
)
from splitleak.models.split import output_shape


@pytest.mark.parametrize(
    ("blocks", "channels", "feature", "parameters"),
    [
        (8, 64, (8, 8, 8), 711_539),
        (4, 64, (8, 8, 8), 415_091),
        (0, 16, (8, 8, 8), 9_011),
        (2, 32, (8, 8, 8), 68_979),
        (8, 64, (8, 16, 16), 748_595),
    ],
)
def test_parameters_count_as_published(blocks, channels, feature, parameters):
    decoder = ResNormDecoder(feature, (3, 32, 32), blocks=blocks, channels=channels)
    assert sum(p.numel() for p in decoder.parameters()) == parameters


@pytest.mark.parametrize(("blocks", "thousands"), [(8, 54_281), (4, 35_407)])
def test_multiply_accumulates_count_as_published(blocks, thousands):
    counted = count_macs(ResNormDecoder((8, 8, 8), (3, 32, 32), blocks=blocks), (8, 8, 8))
    assert round(counted.macs / 1000) == thousands


@pytest.mark.parametrize(
    ("feature", "image"),
    [
        ((8, 8, 8), (3, 32, 32)),
        ((8, 12, 12), (3, 48, 48)),
        ((8, 16, 16), (3, 64, 64)),
        ((128, 1, 1), (1, 32, 32)),
        ((32, 7, 7), (1, 28, 28)),
        ((64, 32, 32), (3, 32, 32)),
        ((4, 4, 6), (3, 8, 12)),
    ],
)
def test_images_have_their_shape_and_lie_strictly_between_0_and_1(feature, image):
    torch.manual_seed(0)
    for kind in (ResNormDecoder, SubPixelDecoder):
        images = kind(feature, image, blocks=1, channels=8)(torch.rand(3, *feature))
        assert images.shape == (3, *image)
        assert 0 < images.min() < images.max() < 1


@pytest.mark.slow
@settings(max_examples=25)
@given(side=st.integers(1, 12), doublings=st.integers(0, 5), narrow=st.integers(1, 12), colours=st.sampled_from([1, 3]))
def test_any_number_of_doublings_reaches_the_image(side, doublings, narrow, colours):
    image = (colours, side << doublings, narrow << doublings)
    decoder = ResNormDecoder((2, side, narrow), image, blocks=0, channels=4)
    assert output_shape(decoder, (2, side, narrow)) == image


@pytest.mark.parametrize(
    ("feature", "image"),
    [
        ((8, 10, 10), (3, 32, 32)),
        ((8, 8, 8), (3, 24, 24)),
        ((8, 64, 64), (3, 32, 32)),
        ((8, 8, 8), (3, 32, 16)),
        ((512,), (3, 32, 32)),
        ((8, 0, 0), (3, 32, 32)),
    ],
)
def test_shapes_that_doubling_cannot_join_are_refused(feature, image):
    with pytest.raises(ValueError, match=r"expected .*, got"):
        ResNormDecoder(feature, image)
    assert not of_one_scale(feature, image)


def test_a_sub_pixel_decoder_sees_the_whole_feature_where_that_is_affordable():
    torch.manual_seed(0)
    decoder = SubPixelDecoder((8, 8, 8), (1, 32, 32), blocks=0, channels=8).eval()
    assert decoder.whole is not None
    torch.nn.init.normal_(decoder.whole[-1].weight)
    features = torch.rand(1, 8, 8, 8)
    far = features.clone()
    far[..., 0, 0] += 1
    assert (decoder(features) - decoder(far))[..., -8:, -8:].abs().max() > 1e-6
    assert SubPixelDecoder((64, 32, 32), (1, 32, 32), blocks=0, channels=8).whole is None


def test_a_decoder_without_width_is_refused():
    with pytest.raises(ValueError, match="expected blocks >= 0 and channels >= 1, got -1 and 64"):
        ResNormDecoder((8, 8, 8), (3, 32, 32), blocks=-1)


def test_the_shortcut_takes_the_raw_input():
    block = ResidualBlock(4, 4).eval()
    for parameter in block.body.parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize(
    ("feature", "image"),
    [((8, 8, 8), (3, 32, 32)), ((3, 4, 6), (1, 16, 24)), ((8, 16, 16), (3, 64, 64)), ((2, 5, 5), (4, 5, 5))],
)
def test_where_the_published_decoder_fits_it_is_that_bit_for_bit(feature, image):
    torch.manual_seed(3)
    made = decoder_for(feature, image, blocks=1, channels=4)
    torch.manual_seed(3)
    published = ResNormDecoder(feature, image, blocks=1, channels=4)
    assert type(made) is ResNormDecoder
    assert made.state_dict().keys() == published.state_dict().keys()
    assert all(torch.equal(value, published.state_dict()[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("kind", ["res-norm", "sub-pixel", "grid"])
def test_channels_that_come_last_are_decoded_as_those_that_come_first(kind):
    image = (3, 36, 36) if kind == "grid" else (3, 32, 32)
    settings = {"blocks": 1, "channels": 4, "kind": kind if kind != "grid" else "sub-pixel"}
    made = []
    for shape in ((12, 8, 8), (8, 8, 12), (6, 2, 8, 8)):
        torch.manual_seed(0)
        made.append(decoder_for(shape, image, **settings).eval())
    first, last, folded = made
    assert of_one_scale((8, 8, 12), image) is of_one_scale((12, 8, 8), image) is (kind != "grid")
    features = torch.randn(2, 12, 8, 8)
    torch.testing.assert_close(last(features.permute(0, 2, 3, 1)), first(features))
    torch.testing.assert_close(folded(features.reshape(2, 6, 2, 8, 8)), first(features))


@pytest.mark.parametrize("image", [(3, 20, 28), (1, 16, 16), (4, 24, 24), (3, 70, 90), (3, 48, 320)], ids=str)
@pytest.mark.parametrize(
    ("feature", "parts"),
    [
        ((8, 7, 5), None),
        ((2, 3, 4), None),
        ((3, 40, 30), None),
        ((5, 1, 2), None),
        ((13, 24), None),
        ((17, 6), None),
        ((23, 6), None),
        ((37,), None),
        ((218,), ((4, 7, 5), (24,), (6, 9))),
    ],
    ids=str,
)
def test_features_of_any_shape_become_pictures_of_any_shape(feature, parts, image):
    torch.manual_seed(0)
    decoder = decoder_for(feature, image, blocks=0, channels=4, parts=parts)
    assert isinstance(decoder, GridDecoder)
    features = torch.rand(2, *feature, requires_grad=True)
    images = decoder(features)
    assert images.shape == (2, *image)
    assert images.isfinite().all()
    images.square().mean().backward()
    assert (features.grad.flatten(1) != 0).any(0).float().mean() > 0.9
    assert output_shape(decoder, feature) == image
    assert 0 <= decoder.eval()(features).min() <= decoder(features).max() <= 1


@pytest.mark.parametrize("kind", ["res-norm", "sub-pixel"])
def test_a_map_that_was_flattened_is_inverted_as_the_map_is(kind):
    features = torch.rand(2, 4, 8, 8)
    made = []
    for shape, parts in (((4, 8, 8), None), ((256,), ((4, 8, 8),))):
        torch.manual_seed(0)
        decoder = decoder_for(shape, (1, 32, 32), blocks=1, channels=4, parts=parts, kind=kind).eval()
        made.append(decoder(features.reshape(2, *shape)))
    assert torch.equal(*made)
    assert isinstance(decoder_for((75,), (1, 32, 32), parts=((3, 5, 5),)), GridDecoder)


def test_features_that_are_not_their_parts_are_refused():
    with pytest.raises(ValueError, match=r"expected features \(8,\), which pack .*, got \(9,\)"):
        decoder_for((9,), (1, 8, 8), parts=((2, 2, 2),))


def test_nothing_wide_is_as_large_as_a_large_picture():
    decoder = decoder_for((64, 112, 112), (3, 224, 224), blocks=2, channels=32)
    wide = [row for row in count_macs(decoder, (64, 112, 112)).rows if row.kind == "Conv2d"]
    assert max(row.output_shape[-1] * row.output_shape[-2] for row in wide) <= LARGE
    assert sum(parameter.numel() for parameter in decoder.parameters()) < 4_000_000


@pytest.mark.parametrize("parts", [None, ((6, 14, 14), (50, 3))], ids=["map", "parts"])
def test_it_starts_as_the_linear_decoder_of_least_squares(parts):
    torch.manual_seed(0)
    images = functional.interpolate(torch.rand(60, 3, 14, 14), (30, 27), mode="bilinear")
    mixed = functional.interpolate(images, (14, 14), mode="area")
    features = torch.cat([mixed, -2 * mixed], 1)
    if parts is not None:
        features = torch.cat([features.flatten(1), torch.randn(60, 150)], 1)
    decoder = decoder_for(tuple(features.shape[1:]), (3, 30, 27), blocks=0, channels=4, parts=parts).eval()
    decoder.start_linearly(features[:50], images[:50], torch.Generator().manual_seed(0))
    rebuilt, mean = decoder(features[50:]), images[:50].mean(0)
    assert (rebuilt - images[50:]).square().mean() < (mean - images[50:]).square().mean() / 4
    assert not any(weights.requires_grad for weights in decoder.direct.parameters())
    bent = decoder_for((37,), (3, 30, 27), blocks=0, channels=4)
    before = {name: value.clone() for name, value in bent.state_dict().items()}
    bent.start_linearly(torch.rand(5, 37), images[:5], torch.Generator())
    assert all(torch.equal(before[name], value) for name, value in bent.state_dict().items())


@pytest.mark.parametrize("side", [3, 6, 8], ids=["odd", "even", "power of two"])
def test_tokens_are_drawn_where_their_patches_lie(side):
    """Those of patches of 6 × 6 pixels were laid on blocks of 8, which no least squares undoes."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(60, 3, 3 * side, 5 * side, generator=draw)
    tokens = functional.unfold(images, side, stride=side).transpose(1, 2)
    decoder = decoder_for((15, 3 * side**2), (3, 3 * side, 5 * side), blocks=0, channels=4).eval()
    decoder.start_linearly(tokens, images, draw)
    torch.testing.assert_close(decoder(tokens), images, atol=0.01, rtol=0)


def test_its_linear_start_learns_no_noise_by_heart_where_values_are_more_than_pairs():
    """The strength was one for all: of forty noisy pairs it began at 1.06 times the MSE of the mean, now at .76."""
    draw = torch.Generator().manual_seed(0)
    images = functional.interpolate(torch.rand(300, 3, 4, 4, generator=draw), (28, 28), mode="bilinear")
    features = functional.adaptive_avg_pool2d(images, 2).repeat(1, 20, 1, 1)
    features += 0.2 * torch.randn(features.shape, generator=draw)
    decoder = decoder_for((60, 2, 2), (3, 28, 28), blocks=0, channels=4).eval()
    decoder.start_linearly(features[:40], images[:40], draw)
    mean = images[:40].mean(0)
    assert (decoder(features[100:]) - images[100:]).square().mean() < 0.9 * (mean - images[100:]).square().mean()
    decoder.start_linearly(features[:2], images[:2], draw)
    assert bool(decoder(features).isfinite().all())


def patches(count, bend):
    """Smooth pictures, and what a convolution over patches of 4×4 pixels makes of them, bent by ``bend``."""
    draw = torch.Generator().manual_seed(0)
    images = functional.interpolate(torch.rand(count, 3, 5, 5, generator=draw), (16, 16), mode="bilinear")
    weights = torch.randn(64, 3, 4, 4, generator=draw) / 7
    return bend(functional.conv2d(images, weights, stride=4)), images


def test_the_default_decoder_starts_at_a_linear_one_where_that_finds_most():
    features, images = patches(60, lambda values: values)
    decoder = SubPixelDecoder((64, 4, 4), (3, 16, 16), blocks=0, channels=8).eval()
    decoder.start_linearly(features[:50], images[:50], torch.Generator().manual_seed(0))
    rebuilt, mean = decoder(features[50:]), images[:50].mean(0)
    assert (rebuilt - images[50:]).square().mean() < (mean - images[50:]).square().mean() / 10
    assert not any(weights.requires_grad for weights in decoder.direct.parameters())


def test_beside_a_channel_of_huge_values_a_linear_start_finds_what_it_finds_without():
    """One strength in units of the mean variance was nothing to it, and too much for all the others."""
    features, images = patches(60, lambda values: values)
    beside = torch.cat([features[:, :20], 1000 * features[:, 20:21], features[:, 21:]], 1)
    errors = []
    for rows in (features, beside):
        decoder = decoder_for((64, 4, 4), (3, 18, 18), blocks=0, channels=8).eval()
        shown = functional.interpolate(images, (18, 18), mode="bilinear")
        decoder.start_linearly(rows[:50], shown[:50], torch.Generator().manual_seed(0))
        errors.append(functional.mse_loss(decoder(rows[50:]), shown[50:]).item())
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("kind", ["sub-pixel", "res-norm"])
@pytest.mark.parametrize(
    ("shape", "channel", "packed"),
    [
        ((8, 4, 4), 0, False),
        ((8, 4, 4), 0, True),
        ((4, 4, 8), 2, False),
        ((2, 4, 5, 5), 0, False),
        ((17, 8), 1, False),
        ((8, 16), 0, False),
        ((8,), 0, False),
    ],
)
def test_beside_a_channel_of_huge_values_the_others_are_not_slight(shape, channel, packed, kind):
    """Of one scale for all the epsilon of batch normalisation left nothing of them."""
    features = torch.randn(50, *shape, generator=torch.Generator().manual_seed(0))
    features.select(channel + 1, 1).mul_(1e6)
    arriving = features.flatten(1) if packed else features
    parts = (shape,) if packed else None
    decoder = decoder_for(tuple(arriving.shape[1:]), (1, 16, 16), blocks=0, channels=8, kind=kind, parts=parts).eval()
    before = {name: value for name, value in decoder.state_dict().items() if name not in ("scale", "levels")}
    decoder.adapt(arriving)
    usual = decoder.scaled(arriving).flatten(1).var(0)
    assert 0.1 < usual.min() < usual.max() < 10
    decoder.load_state_dict(before)
    assert bool((decoder.levels == 1).all())
    assert torch.equal(decoder.scaled(arriving), decoder.laid(arriving))


@pytest.mark.parametrize("count", [2, 60])
def test_the_default_decoder_is_what_it_was_where_a_linear_one_finds_little(count):
    features, images = patches(count, lambda values: (40 * values).sin())
    decoder = SubPixelDecoder((64, 4, 4), (3, 16, 16), blocks=0, channels=8).eval()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    drawn = decoder(features)
    decoder.start_linearly(features, images, torch.Generator().manual_seed(0))
    assert all(torch.equal(before[name], value) for name, value in decoder.state_dict().items())
    other = SubPixelDecoder((64, 4, 4), (3, 16, 16), blocks=0, channels=8).eval()
    other.load_state_dict({name: value for name, value in before.items() if not name.startswith("direct")})  # of before
    assert torch.equal(other(features), drawn)


def test_a_grey_image_is_the_mean_of_three_channels():
    decoder = ResNormDecoder((8, 4, 4), (1, 16, 16), blocks=0, channels=8).eval()
    features = torch.rand(2, 8, 4, 4)
    with torch.no_grad():
        colours = decoder.layers(features)
        assert colours.shape == (2, 3, 16, 16)
        torch.testing.assert_close(decoder(features), colours.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("shape", "kind"), [((4, 8, 8), "sub-pixel"), ((4, 8, 8), "res-norm"), ((4, 7, 5), "sub-pixel")]
)
def test_features_far_from_unit_scale_are_brought_to_it_and_weights_of_before_have_no_scale(shape, kind):
    decoder = decoder_for(shape, (1, 16, 16), blocks=0, channels=8, kind=kind).eval()
    features = torch.randn(50, *shape, generator=torch.Generator().manual_seed(0))
    decoder.adapt(features)
    assert float(decoder.scale) == 1
    before = {name: value for name, value in decoder.state_dict().items() if name != "scale"}
    decoder.adapt(1e4 * features)
    assert float(decoder.scale) == pytest.approx(1e-4, rel=0.05)
    decoder.adapt(1e-4 * features)
    assert float(decoder.scale) == pytest.approx(1e4, rel=0.05)
    scaled = decoder(1e-4 * features * float(1e4 / decoder.scale))
    decoder.load_state_dict(before)
    assert float(decoder.scale) == 1
    torch.testing.assert_close(decoder(features), scaled, atol=1e-4, rtol=0)
    decoder.adapt(torch.zeros(3, *shape))
    assert float(decoder.scale) == 1

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.models.counting import count_macs
from splitleak.models.decoder import ResidualBlock, ResNormDecoder
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
    decoder = ResNormDecoder(feature, image, blocks=1, channels=8)
    images = decoder(torch.rand(3, *feature))
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


def test_a_decoder_without_width_is_refused():
    with pytest.raises(ValueError, match="expected blocks >= 0 and channels >= 1, got -1 and 64"):
        ResNormDecoder((8, 8, 8), (3, 32, 32), blocks=-1)


def test_the_shortcut_takes_the_raw_input():
    block = ResidualBlock(4, 4).eval()
    for parameter in block.body.parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(features), features)


def test_a_grey_image_is_the_mean_of_three_channels():
    decoder = ResNormDecoder((8, 4, 4), (1, 16, 16), blocks=0, channels=8).eval()
    features = torch.rand(2, 8, 4, 4)
    with torch.no_grad():
        colours = decoder.layers(features)
        assert colours.shape == (2, 3, 16, 16)
        torch.testing.assert_close(decoder(features), colours.mean(1, keepdim=True))

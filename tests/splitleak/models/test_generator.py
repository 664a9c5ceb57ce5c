import pytest
import torch

from splitleak.models.generator import Generator, GeneratorConfig


def parameters(network):
    return sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize(("channels", "size", "count"), [(3, 64, 5_142_083), (1, 32, 1_443_777)])
def test_gmis_generators_have_the_published_number_of_parameters(channels, size, count):
    config = GeneratorConfig(channels=channels, size=size, latent=100, width=64, kernel=5)
    assert parameters(Generator(config)) == count


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 1), (28, 1), (32, 3), (64, 3)])
def test_images_of_each_size_come_out_in_range(size, channels, classes, kernel):
    config = GeneratorConfig(channels=channels, size=size, width=2, kernel=kernel, classes=classes)
    labels = None if classes is None else torch.tensor([0, 2])
    images = Generator(config)(torch.randn(2, 64), labels)
    assert images.shape == (2, channels, size, size)
    assert 0 < images.min() < images.max() < 1


@pytest.mark.parametrize("size", [9, 18, 30, 33])
def test_a_side_that_no_doubling_reaches_is_refused(size):
    with pytest.raises(ValueError, match=f"expected a side of 4 to 7 times a power of two, got {size}"):
        GeneratorConfig(channels=1, size=size)


def test_the_class_changes_the_image():
    torch.manual_seed(0)
    config = GeneratorConfig(channels=1, size=8, width=4, classes=3)
    drawing, latents = Generator(config).eval(), torch.randn(1, 64).expand(3, 64)
    images = drawing(latents, torch.arange(3))
    assert not torch.allclose(images[0], images[1])
    with pytest.raises(ValueError, match="expected labels of 3 classes, got none"):
        drawing(latents)


def test_an_image_is_resumed_from_the_features_between_any_two_blocks():
    drawing = Generator(GeneratorConfig(channels=1, size=16, width=4)).eval()
    latents = torch.randn(2, 64)
    features, expected = drawing.block_input(latents, None), drawing(latents)
    for place, block in enumerate(drawing.blocks):
        assert torch.equal(drawing.run_from(features, place), expected)
        features = block(features)
    assert torch.equal(features, expected)

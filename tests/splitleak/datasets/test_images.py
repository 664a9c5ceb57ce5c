import numpy as np
import pytest
import torch
from PIL import Image

from splitleak.datasets import load
from splitleak.datasets.images import Images


def colour(count=3, size=20):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)
    return Images(pixels, torch.zeros(count, dtype=torch.int64), ("only",))


def test_grey_is_the_luma_that_pillow_computes():
    images = colour()
    grey = images.fitted(20, 1).pixels[0, 0].numpy().astype(int)
    reference = np.asarray(Image.fromarray(images.pixels[0].permute(1, 2, 0).numpy()).convert("L")).astype(int)
    assert np.abs(grey - reference).max() <= 1


def test_resizing_agrees_with_pillow():
    images = colour().fitted(20, 1)
    small = images.fitted(12, 1).pixels[0, 0].numpy().astype(int)
    picture = Image.fromarray(images.pixels[0, 0].numpy()).resize((12, 12), Image.Resampling.BILINEAR)
    assert np.abs(small - np.asarray(picture).astype(int)).max() <= 1


def test_a_portrait_is_squeezed_into_the_square_whole():
    rows = torch.linspace(0, 255, 112).round().to(torch.uint8).view(1, 1, 112, 1).expand(2, 1, 112, 92).contiguous()
    square = Images(rows, torch.zeros(2, dtype=torch.int64), ("only",)).fitted(32, 1).pixels[0, 0]
    assert square.shape == (32, 32)
    assert bool((square == square[:, :1]).all())
    assert square[0, 0] < 8
    assert square[-1, 0] > 247


@pytest.mark.parametrize("size", [(12, 30), (31, 7)])
def test_any_height_and_width_can_be_asked_for(size):
    images = colour().fitted(size, 3)
    assert images.shape == (3, *size)
    picture = Image.fromarray(colour().pixels[0, 0].numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.abs(images.pixels[0, 0].numpy().astype(int) - np.asarray(picture).astype(int)).max() <= 1


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_images_of_any_number_of_channels_are_kept_resized_and_never_made_grey_or_coloured(tmp_path, channels):
    from splitleak.datasets.files import load_file

    images = Images(torch.randint(0, 256, (5, channels, 9, 12), dtype=torch.uint8), torch.arange(5) % 2, ("a", "b"))
    images.save(tmp_path / "some.npz")
    loaded = load_file(tmp_path / "some.npz", size=(6, 10)).train
    assert torch.equal(load_file(tmp_path / "some.npz").train.pixels, images.pixels)
    assert loaded.shape == (channels, 6, 10)
    for wanted, other in ((1, images), (3, images), (channels, colour())):
        with pytest.raises(ValueError, match=f"expected images of {wanted} channels.*got {other.shape[0]}"):
            other.fitted(6, wanted)


def test_channels_that_are_a_pictures_width_name_the_setting():
    with pytest.raises(ValueError, match=r"expected images of 32 channels.*preprocessing\.layout=hwc"):
        colour().fitted((32, 3), 32)


def test_images_that_fit_are_left_alone():
    images = colour()
    assert torch.equal(images.fitted(20, 3).pixels, images.pixels)


def test_saved_images_come_back(tmp_path):
    from splitleak.datasets.files import load_file

    images = colour()
    images.save(tmp_path / "three.npz")
    assert torch.equal(load_file(tmp_path / "three.npz").train.pixels, images.pixels)


def test_wrong_labels_and_pixels_are_refused():
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.0"):
        Images(colour().pixels, torch.tensor([0, 1, 0]), ("only",))
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        Images(colour().floats(), torch.zeros(3, dtype=torch.int64), ("only",))


def test_the_built_in_set_is_balanced_and_small():
    from importlib.resources import files

    loaded = load("builtin")
    assert loaded.test is not None
    assert torch.bincount(loaded.train.labels).tolist() == [700] * 10
    assert torch.bincount(loaded.test.labels).tolist() == [200] * 10
    assert (files("splitleak.datasets") / "fashion_mnist_9k.npz").stat().st_size <= 4_000_000


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match="builtin, lfw, photographs, cifar10"):
        load("imagenette")


def test_mirror_images_stand_behind_all_images_with_their_labels():
    images = Images(torch.arange(12, dtype=torch.uint8).view(2, 1, 2, 3), torch.tensor([1, 0]), ("a", "b"))
    both = images.with_mirrors()
    assert both.pixels[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert both.pixels[2, 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert both.labels.tolist() == [1, 0, 1, 0]

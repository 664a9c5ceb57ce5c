import pytest
import torch
from torch.nn import functional

from splitleak.measures import lpips as module
from splitleak.measures.lpips import lpips, missing


def pictures(count=3, side=32, channels=3, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_it_has_the_values_of_the_package_that_its_weights_are_of():
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 32, 32, generator=draw)
    other = (images + 0.1 * torch.randn(images.shape, generator=draw)).clamp(0, 1)
    # By stlpips-pytorch 0.0.2: LPIPS(net="alex", variant="shift_tolerant")(images, other, normalize=True)
    assert lpips(images, other).tolist() == pytest.approx([0.0055983276, 0.0076829465, 0.0034718094], rel=1e-4)


def test_equal_pictures_have_0_and_more_noise_or_blur_is_further():
    smooth = functional.avg_pool2d(pictures(4, 40), 3, stride=1, padding=1)
    assert lpips(smooth, smooth).tolist() == [0] * 4
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    by_noise = [float(lpips(smooth, smooth + sigma * noise).mean()) for sigma in (0.02, 0.1, 0.4)]
    by_blur = [
        float(lpips(smooth, functional.avg_pool2d(smooth, k, 1, k // 2, count_include_pad=False)).mean())
        for k in (3, 7, 15)
    ]
    assert by_noise == sorted(by_noise)
    assert by_blur == sorted(by_blur)


def test_grey_is_three_equal_channels_and_batches_do_not_matter():
    grey, other = pictures(70, channels=1, side=28), pictures(70, channels=1, side=28, seed=1)
    whole = lpips(grey, other)
    torch.testing.assert_close(whole, lpips(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(whole[66:], lpips(grey[66:], other[66:]))


@pytest.mark.parametrize("shape", [(3, 20, 32), (2, 32, 32)])
def test_pictures_it_cannot_compare_are_refused_with_the_reason(shape):
    assert "1 or 3 channels and at least 21 pixels" in missing(shape)
    with pytest.raises(ValueError, match="LPIPS needs pictures of 1 or 3 channels"):
        lpips(torch.zeros(1, *shape), torch.zeros(1, *shape))


def test_the_smallest_side_is_21():
    small = pictures(side=21)
    assert missing((3, 21, 21)) is None
    assert lpips(small, small).tolist() == [0, 0, 0]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert missing((3, 32, 32)) == "needs the extra splitleak[perceptual] (stlpips-pytorch)"

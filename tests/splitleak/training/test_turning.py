import pytest
import torch
from torch.nn import functional

from splitleak.training.turning import turns


@pytest.mark.parametrize("sides", [(9, 9), (9, 27)])
def test_a_quarter_turn_puts_each_pixel_of_the_middle_where_it_belongs(sides):
    image = torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(0))
    places = functional.pad(turns(torch.tensor([torch.pi / 2]), *sides), (0, 1))
    turned = functional.grid_sample(
        image, functional.affine_grid(places, list(image.shape), align_corners=False), align_corners=False
    )
    left = (sides[1] - 9) // 2
    middle, turned = (each[..., left : left + 9] for each in (image, turned))
    torch.testing.assert_close(turned, middle.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_of_a_square_it_is_the_plain_rotation_bit_for_bit():
    angles = torch.linspace(-3, 3, 7)
    plain = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], 1).view(-1, 2, 2)
    assert torch.equal(turns(angles, 32, 32), plain)

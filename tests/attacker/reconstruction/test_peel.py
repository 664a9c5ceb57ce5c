import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.reconstruction.peel import PeelAttack, PeelConfig, before, segments
from splitleak.measures.pixel import mse
from splitleak.models.resnet import BasicBlock


@pytest.fixture(scope="module")
def invertible():
    """Two residual blocks whose bodies change little, behind a stem of four channels that a picture fits into."""
    torch.manual_seed(0)
    stem = nn.Conv2d(1, 4, 3, padding=1)
    stem.weight.data.abs_()
    encoder = nn.Sequential(stem, nn.ReLU(), BasicBlock(4, 4, 1), nn.Sequential(BasicBlock(4, 4, 1)))
    for block in encoder.modules():
        if isinstance(block, BasicBlock):
            for layer in block.body:
                if isinstance(layer, nn.Conv2d):
                    layer.weight.data *= 0.3
    return encoder.eval()


def known(encoder, images):
    with torch.no_grad():
        captured = encoder(images)
    return Knowledge(captured=captured, image_shape=tuple(images.shape[1:]), encoder=encoder)


@pytest.mark.slow
def test_an_invertible_residual_network_is_inverted_exactly_block_by_block(invertible):
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    config = PeelConfig(block_steps=200, block_weight=0, stem_steps=300, joint_steps=0, tv_weight=0)
    attack = PeelAttack(config)
    assert mse(attack(known(invertible, images)), images).max() < 1e-3
    assert max(attack.findings["block_errors"]) < 1e-4


def test_an_encoder_without_residual_blocks_is_refused():
    for encoder in (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)), nn.Identity(), BasicBlock(1, 2, 1)):
        with pytest.raises(ValueError, match="'peel': expected an encoder with residual blocks, as resnet20's, got"):
            PeelAttack(PeelConfig())(known(encoder.eval(), torch.rand(2, 1, 8, 8)))


def test_an_encoder_is_its_stem_its_blocks_and_what_is_behind(invertible):
    tail = nn.Sequential(invertible, nn.Conv2d(4, 2, 1), nn.Sigmoid())
    found = segments(tail, "peel")
    assert [type(each).__name__ for each in found] == ["Sequential", "BasicBlock", "BasicBlock", "Sequential"]
    assert [len(found[0]), len(found[-1])] == [2, 2]


def test_of_large_pictures_as_many_are_in_one_pass_as_memory_affords(invertible, in_small_passes):
    attack = PeelAttack(PeelConfig(block_steps=5, stem_steps=5, joint_steps=5))
    given = known(invertible, torch.rand(3, 1, 8, 8))
    whole = attack(given)
    apart, most = in_small_passes(attack, given, *invertible)
    assert most <= 2  # of the check for a gradient
    torch.testing.assert_close(apart, whole, atol=1e-4, rtol=0)


def test_the_search_starts_from_what_the_shortcut_keeps():
    block, inputs = BasicBlock(2, 4, 2).eval(), torch.rand(1, 2, 6, 6)
    kept = nn.functional.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
    start = before(block, kept, (2, 6, 6))
    assert torch.equal(start[:, :, ::2, ::2], inputs[:, :, ::2, ::2])


def test_interrupted_and_taken_up_again_it_gives_the_same(invertible, tmp_path, killed):
    config, given = PeelConfig(block_steps=30, stem_steps=30, joint_steps=30), known(invertible, torch.rand(2, 1, 8, 8))
    whole = PeelAttack(config)(given)
    with pytest.raises(KeyboardInterrupt):
        PeelAttack(config)(given, Run(checkpoint=tmp_path / "c", report=killed(1, "stem")))
    assert torch.equal(PeelAttack(config)(given, Run(checkpoint=tmp_path / "c")), whole)

import dataclasses

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Run
from splitleak.attacker.reconstruction.sdar import SdarAttack, SdarConfig
from splitleak.testing.material import small_network, undefended

QUICK = SdarConfig(iterations=50, batch_size=8, critic_width=4, channels=4, blocks=0, picture_critic_width=2)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, features):
        return self.factor * features


@pytest.fixture
def known(small_splits):
    model = undefended()
    return Knowledge(
        captured=model.encoder(small_splits.victims.floats()[:8]),
        image_shape=(1, 16, 16),
        public=small_splits.public.floats(),
        labels=small_splits.public.labels,
        head=model.head,
        fresh_encoder=lambda: small_network().encoder,
    )


@pytest.mark.slow
def test_with_and_without_a_head_it_rebuilds_and_leaves_the_head_as_it_is(known):
    before = {name: value.clone() for name, value in known.head.state_dict().items()}
    with_head = SdarAttack(QUICK)(known)
    without = SdarAttack(QUICK)(dataclasses.replace(known, head=None))
    assert not torch.equal(with_head, without)
    assert all(torch.equal(before[name], value) for name, value in known.head.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("own_head", [False, True])
def test_features_of_slight_and_of_large_scale_are_rebuilt_alike(known, own_head):
    rebuilt = []
    for scale in (2**-7, 2**7):  # powers of two, so that nothing is rounded otherwise
        scaled = dataclasses.replace(
            known,
            captured=scale * known.captured,
            head=None if own_head else nn.Sequential(Times(1 / scale), known.head),
            fresh_encoder=lambda s=scale: nn.Sequential(small_network().encoder, Times(s)),
        )
        rebuilt.append(SdarAttack(QUICK)(scaled))
    assert torch.equal(*rebuilt)


@pytest.mark.slow
def test_interrupted_and_taken_up_again_it_gives_the_same(known, tmp_path, killed):
    whole = SdarAttack(QUICK)(known)
    with pytest.raises(KeyboardInterrupt):
        SdarAttack(QUICK)(known, Run(checkpoint=tmp_path / "c", report=killed(1, "sdar")))
    assert torch.equal(SdarAttack(QUICK)(known, Run(checkpoint=tmp_path / "c")), whole)
    assert not list(tmp_path.iterdir())

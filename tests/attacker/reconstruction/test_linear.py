"""The linear attack; what every attack keeps is in tests/contracts."""

import torch
from torch import nn

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.reconstruction.linear import LinearAttack
from splitleak.attacker.training.ridge import RidgeConfig
from splitleak.measures.pixel import mse


def test_it_learns_what_noise_looks_like_from_several_draws_and_is_the_better_for_it(small_splits):
    torch.manual_seed(0)
    encoder = nn.Conv2d(1, 16, 4, stride=4).requires_grad_(False)

    def send(images):
        return encoder(images) + 0.2 * torch.randn(len(images), 16, 4, 4)

    public, victims = small_splits.public.floats()[:60], small_splits.victims.floats()
    errors = []
    for draws in (1, 8):
        known = Knowledge(send(victims), (1, 16, 16), public=public, query=Query(send, draws=draws))
        attack = LinearAttack(RidgeConfig())
        errors.append(float(mse(attack(known, Run()), victims).mean()))
        assert known.query.made == draws * len(public)
        assert attack.findings["rows"] == draws * 60 * 16
        assert attack.weights().keys() == {"weight", "bias"}
    assert errors[1] < errors[0]

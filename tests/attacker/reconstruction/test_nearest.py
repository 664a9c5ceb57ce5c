"""The nearest neighbour attack; what every attack keeps is in tests/contracts."""

import torch
from torch.nn import functional

from splitleak.attacker.base import Knowledge, Query
from splitleak.attacker.reconstruction.nearest import NearestAttack, NearestConfig


def test_it_shows_the_attackers_image_whose_mean_answer_is_the_nearest(small_splits):
    public = small_splits.public.floats()
    noise = torch.Generator().manual_seed(0)

    def send(images):
        small = functional.avg_pool2d(images, 2)
        return small + 0.01 * torch.randn(small.shape, generator=noise)

    for draws in (1, 4):
        query = Query(send, draws=draws)
        known = Knowledge(functional.avg_pool2d(public[5:8], 2), (1, 16, 16), public=public, query=query)
        assert torch.equal(NearestAttack(NearestConfig())(known), public[5:8])
        assert query.made == draws * len(public)


def test_features_far_from_zero_are_told_apart_as_well():
    public = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    known = Knowledge(public[40:80] + 1e4, (1, 8, 8), public=public, query=Query(lambda images: images + 1e4))
    assert torch.equal(NearestAttack(NearestConfig())(known), public[40:80])


def test_a_channel_of_large_values_hides_nothing_of_what_the_others_tell(small_splits):
    public, victims = small_splits.public.floats(), small_splits.victims.floats()
    errors = []
    for scale in (1, 1e4):

        def send(images, scale=scale):
            draw = torch.Generator().manual_seed(len(images))
            noise = scale * torch.rand(len(images), 1, 8, 8, generator=draw)
            return torch.cat([functional.avg_pool2d(images, 2), noise, torch.ones_like(noise)], 1)

        known = Knowledge(send(victims), (1, 16, 16), public=public, query=Query(send))
        errors.append(float(functional.mse_loss(NearestAttack(NearestConfig())(known), victims)))
    assert errors[1] < 1.3 * errors[0]

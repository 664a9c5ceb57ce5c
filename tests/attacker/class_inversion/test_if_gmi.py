import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.if_gmi import IFGMI, IFGMIConfig, into_l1_ball

QUICK = {"candidates": 20, "restarts": 2, "images": 1, "steps": 2, "block_steps": 10, "final_views": {"count": 2}}


@pytest.mark.parametrize(
    ("point", "radius", "expected"), [((3, -2, 1), 3, (2, -1, 0)), ((3, 1), 2, (2, 0)), ((1, 1), 1, (0.5, 0.5))]
)
def test_the_projections_worked_out_by_hand(point, radius, expected):
    found = into_l1_ball(torch.tensor([point]).float(), torch.tensor([float(radius)]))
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0.1, 8))
def test_a_projection_is_in_the_ball_and_moves_nothing_that_is_inside(values, radius):
    point = torch.tensor([values], dtype=torch.float64)
    found = into_l1_ball(point, torch.tensor([radius], dtype=torch.float64))
    assert found.abs().sum() <= radius + 1e-6
    if point.abs().sum() <= radius:
        assert torch.allclose(found, point)


def test_the_models_confidence_never_falls_from_block_to_block(searched):
    attack = IFGMI(IFGMIConfig(**QUICK))
    attack(searched)
    by_block = attack.findings["confidence_by_block"]
    assert len(by_block) == len(searched.prior.generator.blocks)
    assert by_block == sorted(by_block)
    assert by_block[-1] > by_block[0]


def test_features_stay_in_their_ball(searched):
    attack = IFGMI(IFGMIConfig(**{**QUICK, "radius": 0.05, "block_learning_rate": 1.0}))
    search = attack.prepare(searched, Run())
    features = search.generator.blocks[0](torch.randn(10, search.generator.config.latent))
    moved = attack.moved(search, features, search.labels(1), 1)
    sizes = features.abs().flatten(1).sum(1)
    shares = (moved - features).abs().flatten(1).sum(1) / sizes
    assert (shares <= 0.05 + 1e-4).all()
    assert shares.max() > 0.04


def test_the_published_start_is_50_of_2000():
    published = IFGMI.paper_config()
    assert (published.candidates, published.restarts, published.images, published.steps) == (2000, 50, 50, 50)
    assert (published.block_steps, published.block_learning_rate, published.learning_rate) == (10, 0.005, 0.005)


def test_what_it_keeps_reproduces_its_pictures(searched):
    attack = IFGMI(IFGMIConfig(**QUICK))
    rebuilt, kept = attack(searched), attack.weights()
    drawing = attack.prepare(searched, Run()).generator
    blocks = kept["block"]
    for place in blocks.unique().tolist():
        own = blocks == place
        assert torch.allclose(drawing.run_from(kept[f"block-{place}"][own], place), rebuilt[own], atol=1e-5)
    assert blocks.max() > 0

import pytest
import torch

from splitleak.attacker.training.ridge import RidgeConfig, RidgeGauge
from splitleak.eval.scan.defended import plain
from splitleak.eval.scan.rows import CONSTANT, NOT_FINITE, OWN, Form, Row, packed

IMAGES = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def row(*forms):
    """A row of the picture itself, laid out as told by shape and order."""
    made = []
    for shape, order in forms:
        gauge = RidgeGauge([shape], (1, 16, 16), len(IMAGES), config=RidgeConfig(outputs=256))
        made.append(Form(gauge, shape, order))
    return Row("x", ("x",), {}, plain([(256,)]), made, torch.arange(256))


def filled(made, features):
    made.take("public", {"x": features}, IMAGES)
    made.solve()
    made.take("victims", {"x": features}, IMAGES)
    return made


def test_the_form_that_rebuilds_held_out_public_pictures_best_counts():
    turned = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    made = filled(row(((256,), None), ((1, 16, 16), turned.argsort())), IMAGES.flatten(1)[:, turned])
    form, rebuilt = made.best()
    assert form.shape == (1, 16, 16)
    assert rebuilt.shape == IMAGES.shape
    assert float((rebuilt.float() / 255 - IMAGES).abs().max()) < 0.1
    assert made.unmeasured is None
    assert torch.equal(made.nearest()[0], torch.arange(24))


def test_a_picture_is_found_again_beside_what_changes_each_time():
    """A tenth of the values is another for a picture that is moved, and ten times as large as the rest."""
    draw = torch.Generator().manual_seed(2)

    def seen():
        loud = 10 * torch.randn(len(IMAGES), 26, generator=draw)
        return torch.cat([IMAGES.flatten(1)[:, :230], loud], 1)

    made = filled(row(((256,), None)), seen())
    made.take("moved", {"x": seen()}, IMAGES)
    assert float(made.nearest()[1]["moved"].mean()) < 0.3
    made.take(OWN + "moved", {"x": torch.cat([made.sketches["public"][0][:, :230], seen()[:, 230:]], 1)}, IMAGES)
    assert float(made.nearest()[1]["moved"].mean()) > 0.9


@pytest.mark.parametrize("small", [0.0, 1e-9])
def test_features_that_hardly_a_picture_changes_are_constant(small):
    made = filled(row(((256,), None)), 3 + small * IMAGES.flatten(1))
    assert made.unmeasured == CONSTANT


def test_one_picture_that_overflows_leaves_a_row_unmeasured():
    features = IMAGES.flatten(1).clone()
    features[5, 7] = float("inf")
    assert filled(row(((256,), None)), features).unmeasured == NOT_FINITE


def test_several_tensors_are_one_vector():
    values = {"a": torch.ones(2, 3, 4, 4), "b": torch.zeros(2, 5)}
    assert packed(values, ["a", "b"]).shape == (2, 53)
    assert packed(values, ["a"]).shape == (2, 3, 4, 4)

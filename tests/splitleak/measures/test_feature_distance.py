import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.measures.feature_distance import feature_distances


@given(st.integers(1, 6), st.integers(3, 9), st.integers(1, 5), st.integers(0, 2**32))
def test_only_private_images_of_the_class_count(count, members, dimensions, seed):
    draw = torch.Generator().manual_seed(seed)
    rebuilt, private = (torch.randn(n, dimensions, generator=draw) for n in (count, members))
    labels, theirs = torch.randint(3, (count,), generator=draw), torch.arange(members) % 3
    found = feature_distances(rebuilt, labels, private, theirs)
    for index, (image, label) in enumerate(zip(rebuilt.double(), labels.tolist(), strict=True)):
        own = [each.double() for each, of in zip(private, theirs.tolist(), strict=True) if of == label]
        nearest = min(float((image - each).square().sum()) for each in own)
        assert float(found.nearest_squared[index]) == pytest.approx(nearest, rel=1e-9, abs=1e-12)
        assert float(found.nearest[index]) == pytest.approx(nearest**0.5, rel=1e-9, abs=1e-9)
        centre = sum(own) / len(own)
        assert float(found.centroid[index]) == pytest.approx(float((image - centre).norm()), rel=1e-9, abs=1e-9)


def test_an_image_that_is_a_private_one_is_nowhere_away():
    private = 1e4 + torch.rand(20, 30)
    labels = torch.arange(20) % 4
    assert not feature_distances(private, labels, private, labels).nearest.any()


def test_a_class_without_private_images_is_refused():
    with pytest.raises(ValueError, match="expected private images of class 1, got none"):
        feature_distances(torch.rand(1, 2), torch.tensor([1]), torch.rand(1, 2), torch.tensor([0]))


def test_features_of_two_spaces_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(1, 3\)"):
        feature_distances(torch.rand(1, 2), torch.tensor([0]), torch.rand(1, 3), torch.tensor([0]))

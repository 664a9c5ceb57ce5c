import pytest
import torch

from splitleak.testing.material import classifier, drawn_from, refused, small_splits


def test_a_block_draws_from_its_seed_and_leaves_the_stream_as_it_was():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with drawn_from(5):
        drawn = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with drawn_from(5):
        assert torch.equal(torch.rand(3), drawn)


def test_what_is_not_refused_or_in_other_words_is_told():
    with refused(ValueError, "two"):
        raise ValueError("one two")
    with pytest.raises(AssertionError, match="three"), refused(ValueError, "three"):
        raise ValueError("one two")
    with pytest.raises(AssertionError, match="got none"), refused(ValueError):
        pass


def test_the_classifier_knows_its_training_images():
    train = small_splits().train
    assert (classifier()(train.floats()).argmax(1) == train.labels).float().mean() > 0.8

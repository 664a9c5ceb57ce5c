import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.measures.hits import attack_accuracy, top_k_hits


@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 2**32))
def test_a_hit_is_a_label_among_the_first_k_of_a_stable_sort(classes, count, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(3, (count, classes), generator=draw).float()  # with many ties
    labels = torch.randint(classes, (count,), generator=draw)
    order = scores.argsort(dim=1, descending=True, stable=True)
    for k in range(1, classes):
        expected = [label in row[:k] for row, label in zip(order.tolist(), labels.tolist(), strict=True)]
        assert top_k_hits(scores, labels, k).tolist() == expected


@pytest.mark.parametrize(("classes", "k"), [(5, 5), (5, 6), (3, 0)])
def test_among_as_many_as_there_are_classes_everything_is_a_hit_so_it_is_refused(classes, k):
    with pytest.raises(ValueError, match=f"expected k from 1 to {classes - 1} with {classes} classes, got {k}"):
        top_k_hits(torch.rand(4, classes), torch.zeros(4, dtype=torch.int64), k)


def test_labels_that_are_not_one_a_row_are_refused():
    with pytest.raises(ValueError, match="expected scores"):
        top_k_hits(torch.rand(4, 3), torch.zeros(2, dtype=torch.int64), 1)


def test_each_deviation_is_of_what_its_name_says():
    draw = torch.Generator().manual_seed(0)
    hits = torch.rand(3, 2, 4, 5, generator=draw) < 0.6
    found = attack_accuracy(hits)
    flat = hits.double().flatten().tolist()
    assert found.mean == pytest.approx(statistics.fmean(flat))
    assert found.images == 120
    targets = [statistics.fmean(target.double().flatten().tolist()) for target in hits]
    assert found.std_targets == pytest.approx(statistics.stdev(targets))
    trials = [statistics.variance([float(trial.double().mean()) for trial in target]) for target in hits]
    assert found.std_trials == pytest.approx(math.sqrt(statistics.fmean(trials)))
    errors = [p * (1 - p) / (40 - 1) for p in targets]  # the unbiased variance of a mean of 40 zeros and ones
    assert found.standard_error_images == pytest.approx(math.sqrt(statistics.fmean(errors)))
    places = [float(hits[..., index].double().mean()) for index in range(5)]
    assert found.std_image_index == pytest.approx(statistics.stdev(places))


def test_targets_that_differ_as_wholes_show_it_in_one_deviation_only():
    hits = torch.stack([torch.ones(2, 3, 4), torch.zeros(2, 3, 4)])
    found = attack_accuracy(hits)
    assert found.std_targets == pytest.approx(math.sqrt(0.5))
    assert (found.standard_error_images, found.std_trials, found.std_image_index) == (0, 0, 0)


def test_a_single_sample_has_no_standard_deviation():
    document = attack_accuracy(torch.ones(1, 1, 3, 1)).document()
    assert document == {
        "mean": 1.0,
        "images": 3,
        "standard_error_images": 0.0,
        "std_trials": None,
        "std_targets": None,
        "std_image_index": None,
    }
    assert attack_accuracy(torch.ones(1, 1, 1, 1)).standard_error_images is None


@pytest.mark.parametrize("shape", [(2, 3), (1, 1, 0, 4)])
def test_anything_but_four_dimensions_is_refused(shape):
    with pytest.raises(ValueError, match="expected hits"):
        attack_accuracy(torch.ones(shape))

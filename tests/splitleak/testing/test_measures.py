import pytest
import torch

from splitleak.eval.record.metrics import METRICS, Metric
from splitleak.testing import MEASURE_CHECKS, MeasureSubject, check_measure

OURS = [metric for metric in METRICS if metric.compute is not None and "victims" in metric.of]


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("check", MEASURE_CHECKS, ids=lambda check: check.__name__)
def test_every_measure_of_ours_keeps(check, metric):
    check(MeasureSubject.of(metric))


def error(images, truth):
    return (images - truth).abs().flatten(1).mean(1)


@pytest.mark.parametrize(
    ("measure", "better", "said"),
    [
        (lambda images, truth: (images - truth).abs().mean((2, 3)), None, "it gives"),
        (lambda images, truth: error(images, truth) * torch.rand(()), None, "another value"),
        (lambda images, truth: error(images, truth) - error(images, truth).mean(), None, "an image alone"),
        (lambda images, truth: error(images.mul_(0.5), truth), None, "another value|changed the images"),
        (error, "lower", "is not lower"),
        (lambda images, truth: error(images, truth) / error(images, truth), None, "equal images"),
    ],
)
def test_what_a_measure_does_not_keep_is_named(measure, better, said):
    with pytest.raises(AssertionError, match=said):
        check_measure(measure, better=better)


def test_a_measure_and_its_entry_pass():
    check_measure(error, better="higher")
    check_measure(Metric("mae", "MAE", better="higher", of=("victims",), compute=error))
    with pytest.raises(ValueError, match="'recognised'"):
        check_measure(next(metric for metric in METRICS if metric.name == "recognised"))

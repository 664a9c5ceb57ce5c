"""What every measure of victims' images keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from splitleak.eval.record.metrics import Metric

_COUNT = 6


@dataclass(frozen=True)
class MeasureSubject:
    """A measure under test: images ``(N, C, H, W)`` and truth in [0, 1] to ``(N,)``, or to one value of the batch.

    ``better`` is the way that is better for the victims, whose images it compares; None where neither is.
    """

    compute: Callable[[Tensor, Tensor], Tensor]
    better: Literal["higher", "lower"] | None = None

    @classmethod
    def of(cls, metric: Metric) -> "MeasureSubject":
        """That of an entry of the table.

        Raises:
            ValueError: It is of pictures of classes, or is read from records.
        """
        if metric.compute is None or "victims" not in metric.of:
            raise ValueError(f"expected a measure that is computed of victims' images, got {metric.name!r}")
        return cls(metric.compute, metric.better)


def it_gives_one_value_an_image_or_one_of_the_batch(subject: MeasureSubject) -> None:
    """Of grey and of coloured images; its values are finite, and carry no gradient."""
    for channels in (1, 3):
        values = subject.compute(*_pair(channels))
        assert tuple(values.shape) in ((_COUNT,), ()), f"it gives {tuple(values.shape)} for {_COUNT} images"
        assert bool(values.isfinite().all()), f"its values are not finite: {values}"
        assert not values.requires_grad, "its values carry a gradient"


def it_is_pure(subject: MeasureSubject) -> None:
    """Asked again it gives the same, and what it was given is as it was."""
    images, truth = _pair()
    before = images.clone(), truth.clone()
    first = subject.compute(images, truth)
    torch.rand(7)
    assert torch.equal(subject.compute(images, truth), first), "asked again, it gives another value"
    assert torch.equal(images, before[0]), "it changed the images that it was given"
    assert torch.equal(truth, before[1]), "it changed the truth that it was given"


def an_image_is_measured_as_if_it_were_alone(subject: MeasureSubject) -> None:
    """Where there is a value for each image, the others of the batch do not matter, nor does their order."""
    images, truth = _pair()
    values = subject.compute(images, truth)
    if values.ndim == 0:
        turned = subject.compute(images.flip(0), truth.flip(0))
        torch.testing.assert_close(turned, values, msg="the order of the batch changes its value")
        return
    for place in range(_COUNT):
        alone = subject.compute(images[place : place + 1], truth[place : place + 1])[0]
        torch.testing.assert_close(alone, values[place], msg="an image alone has another value")


def further_images_are_better_for_the_victims(subject: MeasureSubject) -> None:
    """More noise on the truth moves the mean the way that ``better`` says."""
    if subject.better is None:
        return
    _, truth = _pair()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    means = [float(subject.compute((truth + sigma * noise).clamp(0, 1), truth).mean()) for sigma in (0.02, 0.1, 0.5)]
    expected = sorted(means, reverse=subject.better == "lower")
    assert means == expected, f"with more and more noise its means are {means}, which is not {subject.better}"


def equal_images_have_a_value(subject: MeasureSubject) -> None:
    """It may be infinite, as PSNR is, but not undefined."""
    _, truth = _pair()
    flat = torch.full_like(truth, 0.5)
    for images in (truth, flat):
        assert not bool(subject.compute(images, images).isnan().any()), "equal images have no value"


MEASURE_CHECKS: tuple[Callable[[MeasureSubject], None], ...] = (
    it_gives_one_value_an_image_or_one_of_the_batch,
    it_is_pure,
    an_image_is_measured_as_if_it_were_alone,
    further_images_are_better_for_the_victims,
    equal_images_have_a_value,
)


def check_measure(
    measure: Metric | Callable[[Tensor, Tensor], Tensor], *, better: Literal["higher", "lower"] | None = None
) -> None:
    """Holds a measure of victims' images to what every such measure keeps; a moment.

    Args:
        measure: An entry of the table, or its function alone.
        better: Of a function: which way is better for the victims. An entry says so itself.

    Raises:
        AssertionError: Something is not kept.
        ValueError: It is an entry of another kind.
    """
    subject = MeasureSubject.of(measure) if isinstance(measure, Metric) else MeasureSubject(measure, better)
    for check in MEASURE_CHECKS:
        check(subject)


def _pair(channels: int = 1) -> tuple[Tensor, Tensor]:
    """Images and truth ``(6, channels, 24, 24)``: each half of what it is to be, and half noise."""
    draw = torch.Generator().manual_seed(0)
    images, truth = (torch.rand(_COUNT, channels, 24, 24, generator=draw) for _ in range(2))
    return (images + truth) / 2, truth

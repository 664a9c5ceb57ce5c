"""What every architecture keeps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from splitleak.models import ARCHITECTURES
from splitleak.models.architecture import Architecture
from splitleak.models.engine import choose_engine, feature_probes, image_probes
from splitleak.models.split import ModelConfig, build, output_shape
from splitleak.testing.material import CPU, drawn_from, refused, same

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ArchitectureSubject:
    """An architecture under test, and the name that the table has it by while it is tested."""

    architecture: Architecture
    name: str = "tested"

    @contextmanager
    def listed(self) -> Iterator[None]:
        """The table of architectures has it while the block runs."""
        with ARCHITECTURES.holding(self.name, self.architecture):
            yield

    def config(self, **changes: Any) -> ModelConfig:  # noqa: ANN401  # fields of the config
        """A small network of it, for images as small as it takes, but of 32 pixels at least."""
        size = max(32, self.architecture.smallest)
        return ModelConfig(
            **{"architecture": self.name, "width": 0.1, "channels": 3, "size": size, "classes": 10, **changes}
        )


def every_cut_computes_the_same_network(subject: ArchitectureSubject) -> None:
    """Under the same weights, in the order of positions; the feature has the shape that the model tells."""
    with subject.listed(), drawn_from(0):
        whole = build(subject.config()).eval()
        weights = {_own_name(name): value for name, value in whole.state_dict().items()}
        images = torch.rand(2, *whole.image_shape)
        for cut in range(1, subject.architecture.positions + 1):
            other = build(subject.config(cut=cut)).eval()
            other.load_state_dict({name: weights[_own_name(name)] for name in other.state_dict()})
            torch.testing.assert_close(other(images), whole(images), msg=f"cut at {cut}, it is another network")
            shape = tuple(other.encoder(images).shape[1:])
            assert shape == other.feature_shape, f"cut at {cut}, it gives {shape}, not {other.feature_shape}"


def the_default_cut_is_written_as_none_or_as_its_number(subject: ArchitectureSubject) -> None:
    """And lies between the positions, while a cut outside of them, and too small an image, are refused."""
    known = subject.architecture
    with subject.listed():
        explicit = subject.config(cut=known.default_cut)
        shapes = build(subject.config()).feature_shape, build(explicit).feature_shape
        assert shapes[0] == shapes[1], f"the default cut gives {shapes[0]}, its number {shapes[1]}"
        for wrong in ({"cut": 0}, {"cut": known.positions + 1}, {"size": known.smallest - 1}):
            with refused(ValueError, "expected"):
                subject.config(**wrong)


def any_size_and_width_gives_logits(subject: ArchitectureSubject) -> None:
    """From the smallest image, of either number of channels, to one and to many classes."""
    smallest = subject.architecture.smallest
    with subject.listed():
        for size in (smallest, smallest + 1, 2 * smallest + 5):
            for width, channels, classes in ((0.01, 1, 1), (0.3, 3, 17)):
                model = build(subject.config(width=width, channels=channels, size=size, classes=classes)).eval()
                try:
                    shape = output_shape(model.head, model.feature_shape)
                except RuntimeError as error:
                    raise AssertionError(f"images of {size} pixels do not pass: {error}") from None
                assert shape == (classes,), f"images of {size} pixels give {shape}, not {classes} logits"


def one_seed_gives_one_model(subject: ArchitectureSubject) -> None:
    """Its weights are drawn from torch's global stream alone."""
    states = []
    with subject.listed():
        for _ in range(2):
            with drawn_from(3):
                states.append(build(subject.config()).state_dict())
    assert same(*states), "one seed gives two models"


def the_gradient_reaches_every_weight(subject: ArchitectureSubject) -> None:
    """And is finite."""
    with subject.listed(), drawn_from(0):
        model = build(subject.config(width=0.5)).train()
        images = torch.rand(4, *model.image_shape)
    functional.cross_entropy(model(images), torch.arange(4)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"no gradient reaches {name}"
        assert bool(weight.grad.isfinite().all()), f"the gradient of {name} is not finite"


def a_half_is_completed_by_its_state_without_drawing_weights(subject: ArchitectureSubject) -> None:
    """As services load it: built without memory, and then given its weights."""
    with subject.listed(), drawn_from(0):
        model = build(subject.config()).eval()
        with torch.device("meta"):
            empty = build(subject.config()).eval()
        empty.encoder.load_state_dict(model.encoder.state_dict(), assign=True)
        empty.head.load_state_dict(model.head.state_dict(), assign=True)
        images = torch.rand(2, *model.image_shape)
        with torch.no_grad():
            assert torch.equal(empty(images), model(images)), "loaded from its weights, it gives another answer"


def either_half_runs_as_onnx_in_any_batch(subject: ArchitectureSubject) -> None:
    """With what torch gives, within 1e-4 of the largest value."""
    with subject.listed(), drawn_from(0):
        model = build(subject.config()).to(memory_format=torch.channels_last).eval()
    halves: tuple[tuple[nn.Module, Any, torch.memory_format], ...] = (
        (model.encoder, image_probes(model.image_shape), torch.channels_last),
        (model.head, feature_probes(model.feature_shape), torch.preserve_format),
    )
    draw = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        for module, probes, layout in halves:
            engine = choose_engine("onnx", module, CPU, probes, layout)
            for count in (1, 2, 17):
                rows = torch.rand(count, *probes[0].shape[1:], generator=draw)
                expected = module(rows)
                far = float((engine(rows.numpy()) - expected).abs().max() / expected.abs().max())
                assert far < _TOLERANCE, f"as ONNX, a half of {count} images is {far:.1e} off"


def it_says_what_it_is(subject: ArchitectureSubject) -> None:
    """``about`` is not empty."""
    assert subject.architecture.about.strip(), "it does not say what it is"


ARCHITECTURE_CHECKS: tuple[Callable[[ArchitectureSubject], None], ...] = (
    it_says_what_it_is,
    every_cut_computes_the_same_network,
    the_default_cut_is_written_as_none_or_as_its_number,
    any_size_and_width_gives_logits,
    one_seed_gives_one_model,
    the_gradient_reaches_every_weight,
    a_half_is_completed_by_its_state_without_drawing_weights,
    either_half_runs_as_onnx_in_any_batch,
)


def check_architecture(architecture: Architecture, name: str = "tested") -> None:
    """Holds an architecture to what every architecture keeps; a few seconds.

    Args:
        architecture: The one; it need not be registered.
        name: What messages call it.

    Raises:
        AssertionError: Something is not kept.
    """
    for check in ARCHITECTURE_CHECKS:
        check(ArchitectureSubject(architecture, name))


def _own_name(name: str) -> str:
    """A weight's name without its half."""
    return name.split(".", 1)[1]

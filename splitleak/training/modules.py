"""Placing networks on a device and freezing their weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from splitleak.seeding import generator
from splitleak.user_code import in_eval_mode

M = TypeVar("M", bound=nn.Module)


class HostState(nn.Module):
    """A module some of whose buffers stay on the CPU wherever it goes: no device is waited for to read them."""

    on_host: ClassVar[tuple[str, ...]] = ()
    """Names of these buffers, registered on the CPU."""

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        kept = {name: self._buffers[name] for name in self.on_host}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(kept)
        return self


def at_once(batches: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Tensors of the CPU on ``device``, by one copy, for a device waits for each."""
    moved: Sequence[Tensor] = torch.cat(list(batches)).to(device).split([len(batch) for batch in batches])
    return moved


def to_channels_last(module: M, device: torch.device) -> M:
    """Moves ``module`` to ``device``, the weights of its convolutions in channels-last layout; changed in place."""
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def freeze(module: M, device: torch.device) -> M:
    """``module`` in eval mode, its parameters without gradients, on ``device``; changed in place."""
    return in_eval_mode(module.requires_grad_(False)).to(device)


def passes_gradients(network: nn.Module, image_shape: tuple[int, int, int], device: torch.device) -> bool:
    """Whether gradients of what a network on ``device`` gives reach an image ``(C, H, W)``; rounding lets none."""
    with torch.enable_grad():
        random = torch.rand(2, *image_shape, generator=generator(0, "gradient"))
        shown = random.to(device).requires_grad_()
        given: Tensor = network(shown)
        return given.requires_grad and bool(torch.autograd.grad(given.square().sum(), shown)[0].any())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode for a while; afterwards each of its submodules is in the mode that it was in."""
    modes = [(each, each.training) for each in module.modules()]
    in_eval_mode(module)
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training

"""Learned perceptual similarity (LPIPS), in its shift-tolerant form, by the weights of the package stlpips-pytorch.

Only the package's weights are used, read as tensors: none of its code runs.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from splitleak.measures.pixel import check_pair, in_parts

_PACKAGE, _WEIGHTS = "stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"
_LEAST_SIDE = 21  # the last pooling has nothing to take from a smaller picture
_PART = 3 * 2**18  # values of images that are compared at once: 64 pictures of 64 × 64 pixels
# By stage, where the weights of its convolution lie in the file, and its padding.
_CONVOLUTIONS = (("slice1.0", 2), ("slice2.5", 2), ("slice3.9", 1), ("slice4.11", 1), ("slice5.13", 1))
_POOLED = (1, 2)  # stages that begin by pooling


def missing(shape: tuple[int, ...]) -> str | None:
    """Why pictures ``(C, H, W)`` cannot be compared: no package, or too few pixels or channels; None if they can."""
    if find_spec(_PACKAGE) is None:
        return "needs the extra splitleak[perceptual] (stlpips-pytorch)"
    if shape[0] not in (1, 3) or min(shape[1:]) < _LEAST_SIDE:
        return f"needs pictures of 1 or 3 channels and at least {_LEAST_SIDE} pixels a side"
    return None


@torch.no_grad()
def lpips(images: Tensor, targets: Tensor) -> Tensor:
    """Shift-tolerant LPIPS of each image, at least 0; lower is closer, 0 for equal images.

    Ghildyal and Liu, "Shift-tolerant perceptual similarity metric", ECCV 2022: LPIPS (Zhang et al., CVPR 2018) on an
    AlexNet that blurs where it strides, so that a picture moved by a pixel stays near. Its values are not those of
    LPIPS 0.1. It was trained on 64 × 64 pixels; smaller pictures are compared as they are, grey ones as three equal
    channels.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], C 1 or 3, at least 21 × 21 pixels.
        targets: ``(N, C, H, W)``.

    Returns:
        ``(N,)``, on the device of the images.

    Raises:
        ValueError: The shapes differ, or `missing` has a reason.
    """
    check_pair(images, targets)
    if reason := missing(tuple(images.shape[1:])):
        raise ValueError(f"LPIPS {reason}, got {tuple(images.shape)}")
    return torch.cat([_distance(*part) for part in in_parts(images, targets, _PART)])


def _distance(images: Tensor, targets: Tensor) -> Tensor:
    weights = {name: weight.to(images.device) for name, weight in _weights().items()}
    own, theirs = (_stages(batch.float(), weights) for batch in (images, targets))
    total = images.new_zeros(len(images))
    for stage, (a, b) in enumerate(zip(own, theirs, strict=True)):
        apart = (_normalised(a) - _normalised(b)).square()
        total = total + functional.conv2d(apart, weights[f"lin{stage}.model.1.weight"]).mean((1, 2, 3))
    return total


def _stages(images: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """The activations of the five stages."""
    values = (2 * images.expand(-1, 3, -1, -1) - 1 - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]
    stages = []
    for stage, (name, padding) in enumerate(_CONVOLUTIONS):
        if stage in _POOLED:
            values = _blurred(functional.max_pool2d(values, 3, stride=1))
        values = functional.conv2d(values, weights[f"net.{name}.weight"], weights[f"net.{name}.bias"], padding=padding)
        values = functional.relu(values if stage else _blurred(values))
        stages.append(values)
    return stages


def _blurred(values: Tensor) -> Tensor:
    """Every other pixel of a 3 × 3 binomial blur, two reflected pixels around."""
    line = values.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(values.shape[1], 1, 3, 3)
    padded = functional.pad(values, (2, 2, 2, 2), mode="reflect")
    return functional.conv2d(padded, kernel, stride=2, groups=values.shape[1])


def _normalised(values: Tensor) -> Tensor:
    return values / (values.square().sum(1, keepdim=True).sqrt() + 1e-10)


@cache
def _weights() -> dict[str, Tensor]:
    spec = find_spec(_PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / _WEIGHTS
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded

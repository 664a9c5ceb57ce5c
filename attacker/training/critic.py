"""Critics of images, the discriminators that generators are trained against, and their losses."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from splitleak.models.generator import GeneratorConfig
from splitleak.training.modules import HostState

Norm = Literal["instance", "spectral"]

_LEAK = 0.2


class Critic(nn.Module):
    """GAN critic: images ``(N, C, size, size)`` to realness scores ``(N,)``, or to ``(N, outputs)``.

    Convolutions of stride 2 that mirror the generator's, leaky ReLU of 0.2, and a last convolution over the remaining
    feature map. ``norm`` is ``instance``, GMI's critic for a Wasserstein loss (affine, not after the first
    convolution; 1,030,913 parameters for grey at 32 pixels), or ``spectral`` normalisation of every layer, for a hinge
    loss, with a 3×3 convolution after each halving. With classes, the inner product of the summed features with a
    learned class embedding is added (Miyato and Koyama, "cGANs with projection discriminator", ICLR 2018).
    """

    def __init__(self, config: GeneratorConfig, norm: Norm = "spectral", outputs: int | None = None) -> None:
        super().__init__()
        self.outputs = outputs
        spectral, widths = norm == "spectral", config.widths()[::-1]
        self.layers = nn.Sequential(*_halvings(config.channels, widths, config.kernel, norm))
        last = nn.Conv2d(widths[-1], outputs or 1, config.start)
        self.last = spectral_norm(last) if spectral else last
        table = nn.Embedding(config.classes, widths[-1]) if config.classes else None
        self.classes = spectral_norm(table) if spectral and table is not None else table

    def features(self, images: Tensor) -> Tensor:
        """The input of the last layer ``(N, channels, start, start)``."""
        features: Tensor = self.layers(images)
        return features

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.judge(self.features(images), labels)

    def judge(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """The scores of images with these `features`."""
        scores: Tensor = self.last(features).flatten(1)
        if self.classes is not None:
            scores = scores + (self.classes(labels) * features.sum((2, 3))).sum(1, keepdim=True)
        return scores if self.outputs else scores.squeeze(1)


class PatchCritic(HostState):
    """CEM's ``DGWGAN32``, images ``(N, C, H, W)`` to scores ``(N,)``: three 5×5 convolutions, then a 4×4 one.

    Stride 2 and leaky ReLU of 0.2 in all but the last, instance normalisation in the second and third; the scores of an
    image larger than 32 × 32 are averaged. Where less than 4 × 4 is left, the last convolution takes the whole of it.
    At 32 × 32 it is GMI's `Critic`.

    Raises:
        ValueError: Images are smaller than 16 × 16.
    """

    on_host = ("steps",)

    def __init__(self, image_shape: tuple[int, int, int], width: int = 64) -> None:
        super().__init__()
        channels, *sides = image_shape
        if min(sides) < 16:
            raise ValueError(f"expected images of at least 16 × 16 for the critic, got {image_shape}")
        halvings = _halvings(channels, (width, 2 * width, 4 * width), 5, "instance")
        self.layers = nn.Sequential(*halvings, nn.Conv2d(4 * width, 1, min(4, (min(sides) + 7) // 8)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device="cpu"))
        self.steps: Tensor

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(images).flatten(1).mean(1)
        return scores


def _halvings(channels: int, widths: Sequence[int], kernel: int, norm: Norm) -> list[nn.Module]:
    """Convolutions of stride 2 to so many channels, each with its normalisation and leaky ReLU."""
    layers: list[nn.Module] = []
    for level, wide in enumerate(widths):
        convolution = nn.Conv2d(channels, wide, kernel, stride=2, padding=(kernel - 1) // 2)
        layers.append(spectral_norm(convolution) if norm == "spectral" else convolution)
        if level and norm == "instance":
            layers.append(nn.InstanceNorm2d(wide, affine=True))
        layers.append(nn.LeakyReLU(_LEAK))
        if norm == "spectral":
            layers += [spectral_norm(nn.Conv2d(wide, wide, 3, padding=1)), nn.LeakyReLU(_LEAK)]
        channels = wide
    return layers


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's hinge loss, of its scores ``(B,)`` of real and of generated images.

    >>> hinge(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0]))
    tensor(1.5000)
    """
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], between: Tensor, *, epsilon: float = 0.0) -> Tensor:
    r"""The gradient penalty of WGAN-GP, how far the norm of the critic's gradient is from 1.

    .. math:: E_{\hat x}\big[(\lVert\nabla_{\hat x} D(\hat x)\rVert_2 - 1)^2\big]

    Gulrajani et al., "Improved training of Wasserstein GANs", NeurIPS 2017.

    Args:
        critic: D, images ``(B, C, H, W)`` to scores ``(B,)``.
        between: The points, drawn between real and generated images ``(B, C, H, W)``.
        epsilon: Added to the squared norm under the root, which has no slope of its own at 0.
    """
    between = between.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    slopes = gradient.flatten(1)
    norms: Tensor = (slopes.square().sum(1) + epsilon).sqrt() if epsilon else slopes.norm(dim=1)
    return (norms - 1).square().mean()

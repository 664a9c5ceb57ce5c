"""The residual decoder from features to images: the attacker's inverse network, and the adversary of some defenses."""

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Pre-activation residual block: twice (batch normalisation, ReLU, 3×3 convolution), plus a shortcut.

    The shortcut is the identity, or a 1×1 convolution without bias and batch normalisation where the number of
    channels changes. ``(N, channels, H, W)`` to ``(N, wide, H, W)``.
    """

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(True),
            nn.Conv2d(channels, wide, 3, padding=1),
            nn.BatchNorm2d(wide),
            nn.ReLU(True),
            nn.Conv2d(wide, wide, 3, padding=1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if channels != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide))

    def forward(self, features: Tensor) -> Tensor:
        total: Tensor = self.body(features) + self.shortcut(features)
        return total


class ResNormDecoder(nn.Module):
    """The residual decoder ``res_normN<blocks>C<channels>``: features ``(N, c, h, w)`` to images ``(N, C, H, W)``.

    Li et al., ResSFL, CVPR 2022, and Xia et al., CEM, CVPR 2025 (N8C64 attacks, N4C64 is the surrogate of a defense).
    One residual block to ``channels``, then ``blocks`` more; a transposed convolution of stride 2 with batch
    normalisation for each doubling of the side; a residual block to the image's channels and a sigmoid, so values in
    (0, 1). ReLU follows every part but the last. With fewer than two doublings, residual blocks replace the missing
    ones. Weights are torch's defaults, from its global generator. Grey images are the mean of three channels: with a
    single channel in the last block, about every fourth seed has dead units, at up to 1.7 times the error.

    Args:
        feature_shape: ``(c, h, w)``.
        image_shape: ``(C, H, W)``.
        blocks: Residual blocks after the first.
        channels: Width.

    Raises:
        ValueError: ``image_shape`` is not ``feature_shape`` with both sides times one power of two (1 included).
    """

    def __init__(
        self, feature_shape: tuple[int, ...], image_shape: tuple[int, ...], *, blocks: int = 8, channels: int = 64
    ) -> None:
        super().__init__()
        if blocks < 0 or channels < 1:
            raise ValueError(f"expected blocks >= 0 and channels >= 1, got {blocks} and {channels}")
        ups = doublings(feature_shape, image_shape)
        layers: list[nn.Module] = [ResidualBlock(feature_shape[0], channels), nn.ReLU(True)]
        for _ in range(blocks + max(0, 2 - ups)):
            layers += [ResidualBlock(channels, channels), nn.ReLU(True)]
        for _ in range(ups):
            up = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)
            layers += [up, nn.BatchNorm2d(channels), nn.ReLU(True)]
        self.grey = image_shape[0] == 1
        self.layers = nn.Sequential(*layers, ResidualBlock(channels, 3 if self.grey else image_shape[0]), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        images: Tensor = self.layers(features)
        return images.mean(1, keepdim=True) if self.grey else images


def doublings(feature_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> int:
    """Number of 2× upsampling steps from features ``(c, h, w)`` to images ``(C, H, W)``.

    Raises:
        ValueError: The image's sides are not the features' times one power of two (1 included).
    """
    if len(feature_shape) != 3 or len(image_shape) != 3 or min(*feature_shape, *image_shape) < 1:
        raise ValueError(f"expected features (c, h, w) and images (C, H, W), got {feature_shape} and {image_shape}")
    (_, low, narrow), (_, high, wide) = feature_shape, image_shape
    factor = high // low
    if factor < 1 or factor & (factor - 1) or (low * factor, narrow * factor) != (high, wide):
        raise ValueError(
            f"expected images whose sides are those of the features times one power of two, "
            f"got features {feature_shape} and images {image_shape}"
        )
    return factor.bit_length() - 1

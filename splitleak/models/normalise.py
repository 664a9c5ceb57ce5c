"""Per-channel normalisation as the first layer of an encoder, so that images are in [0, 1] everywhere else."""

import torch
from torch import Tensor, nn

from splitleak.datasets.statistics import Normalisation


class Normalise(nn.Module):
    """``(x - mean) / std`` for images ``(N, C, H, W)``; mean and std are buffers, saved with the weights.

    ``normalisation=None`` means mean 0 and std 1: no normalisation, or values that are loaded later.

    Raises:
        ValueError: The normalisation does not have ``channels`` entries, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, normalisation: Normalisation | None = None) -> None:
        super().__init__()
        chosen = normalisation or Normalisation(mean=(0.0,) * channels, std=(1.0,) * channels)
        for name, values in (("mean", chosen.mean), ("std", chosen.std)):
            if len(values) != channels:
                raise ValueError(f"expected a {name} of {channels} values, one a channel, got {values}")
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(channels, 1, 1))
        if min(chosen.std) <= 0:
            raise ValueError(f"expected positive deviations, got {chosen.std}")

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

"""Black-box inverse network: a short chain of transposed convolutions from features back to images."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.attacker.base import Attack, Knowledge, Run, Shapes
from splitleak.attacker.training.fitting import LEAST_STEPS, FitConfig, fit, gather, predict, set_rate, step
from splitleak.models.decoder import ScaledDecoder, doublings
from splitleak.models.grids import Crop, ToGrid, channels_of
from splitleak.seeding import seeded
from splitleak.training.modules import to_channels_last

_LEARNT = (0.05, 2.0)  # variances of features that it learns well from as they are: it normalises none on the way
_FAR = 10.0  # times the variance of features, from where on the mean square of their channels' means is much


class InverseNetworkConfig(FitConfig):
    """The network's width and its training. The defaults are a preset for a CPU."""

    channels: int = Field(default=32, ge=1, description="before the last convolution; twice as many before those")
    learning_rate: float = Field(default=5e-3, gt=0)
    halved_every: int = Field(default=5, ge=1, description="epochs after which the learning rate is halved")


class InverseNetwork(nn.Sequential, ScaledDecoder):
    """Features ``(N, c, h, w)`` to images ``(N, C, H, W)``, without an activation at the end.

    A transposed 3×3 convolution of stride 2 with ReLU for each doubling of the side, the last to ``channels`` and those
    before to twice as many, then one of stride 1 to the image. At He et al.'s cuts and 64 channels it is their network.
    Channels whose means are far from 0 beside their deviations are brought to a mean of 0 first, and a few that drown
    the others down to these, see `adapt`.

    Raises:
        ValueError: The sides of the image are not those of the features times one power of two.
    """

    usual = _LEARNT

    centre: Tensor

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, ...], channels: int = 64) -> None:
        layers: list[nn.Module] = []
        wide, ups = feature_shape[0], doublings(feature_shape, image_shape)
        for left in reversed(range(ups)):
            next_wide = 2 * channels if left else channels
            up = nn.ConvTranspose2d(wide, next_wide, 3, stride=2, padding=1, output_padding=1)
            layers += [up, nn.ReLU(True)]
            wide = next_wide
        super().__init__(*layers, nn.ConvTranspose2d(wide, image_shape[0], 3, padding=1))
        self.register_buffer("centre", torch.zeros(feature_shape[0], 1, 1))
        self.levels = torch.ones(feature_shape[0], 1, 1)

    @torch.no_grad()
    def adapt(self, features: Tensor) -> None:
        super().adapt(features)
        features = features / self.levels
        means = features.mean((0, 2, 3))
        if float(means.square().mean()) > _FAR * float(features.var(0).mean()):
            self.centre.copy_(means[:, None, None])

    def added(self) -> dict[str, Tensor]:
        return super().added() | {"centre": torch.zeros_like(self.centre, device="cpu")}

    def forward(self, features: Tensor) -> Tensor:
        images: Tensor = super().forward((features / self.levels - self.centre) * self.scale)  # type: ignore[no-untyped-call]  # torch's
        return images


class _Behind(nn.Sequential, ScaledDecoder):
    """An `InverseNetwork` behind what brings features at the decoder's scale to its map."""

    @torch.no_grad()
    def adapt(self, features: Tensor) -> None:
        super().adapt(features)
        to_map, network = self[0], self[1]
        if isinstance(network, InverseNetwork) and not list(to_map.parameters()):
            network.adapt(to_map(self.scaled(features)))

    def forward(self, features: Tensor) -> Tensor:
        images: Tensor = super().forward(self.scaled(features))  # type: ignore[no-untyped-call]  # torch's
        return images


def inverse_network_for(
    feature_shape: tuple[int, ...],
    image_shape: tuple[int, int, int],
    channels: int,
    parts: tuple[tuple[int, ...], ...] | None = None,
) -> ScaledDecoder:
    """An `InverseNetwork`; where it does not fit, behind what brings features of any shape to a grid, see `ToGrid`.

    It fits no map of a single place, which is a vector.

    Raises:
        ValueError: Features have more than three axes.
    """
    tensors = parts or (feature_shape,)
    if len(tensors) == 1 and len(tensors[0]) == 3 and tensors[0][1:] != (1, 1):
        try:
            fitting = InverseNetwork(tensors[0], image_shape, channels)
            return fitting if parts is None else _Behind(nn.Unflatten(1, tensors[0]), fitting)
        except ValueError:
            pass
    to_grid = ToGrid(tensors, image_shape, width=2 * channels, doubled=True)
    _, high, wide = to_grid.map_shape
    reached = (image_shape[0], high * to_grid.spacing, wide * to_grid.spacing)
    behind = _Behind(to_grid, InverseNetwork(to_grid.map_shape, reached, channels), Crop(image_shape))
    behind.levels = torch.ones(channels_of((feature_shape,), image_shape))
    return behind


class InverseNetworkAttack(Attack):
    """Queries the edge with its public images, and trains an inverse of the encoder on the (feature, image) pairs.

    He, Zhang and Lee, "Model inversion attacks against collaborative inference", ACSAC 2019, the black-box attack;
    MSE, Adam. Features ``(N, *cut)``, images ``(N, C, H, W)`` in [0, 1]; what lies outside is clamped at the end.
    Deviations: features whose sides are not the image's divided by a power of two, tokens and vectors are brought to a
    grid first, see `ToGrid`; features whose variance is not in 0.05 to 2 are scaled to a variance of 1, those of means
    far from 0, as a sigmoid gives, are brought to means of 0, and a few channels that drown the others down to these,
    see `drowning`: so the published rate learns as it does from usual ones; few pairs are gone through several times an
    epoch; images in [0, 1] and not normalised per channel, so channels weigh alike; the epoch is chosen on held-out
    public pairs; pairs are shuffled; the CPU preset is narrower and shorter, at a higher learning rate.
    """

    name = "inverse-network"
    config_type = InverseNetworkConfig
    needs = frozenset({"public", "query"})
    config: InverseNetworkConfig

    @classmethod
    def paper_config(cls) -> InverseNetworkConfig:
        """He et al.'s: 64 channels, 50 epochs of batch 32, Adam at 1e-3 halved every 10."""
        return InverseNetworkConfig(channels=64, epochs=50, learning_rate=1e-3, halved_every=10)

    def untrained(self, shapes: Shapes) -> ScaledDecoder:
        return inverse_network_for(shapes.feature_shape, shapes.image_shape, self.config.channels, shapes.parts)

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        config, features = self.config, gather(known, self.name)
        with seeded(run.seed, self.name, "init"):
            network = self.untrained(Shapes.of(known))
        to_channels_last(network, run.device)
        optimizer = Adam(network.parameters(), lr=config.learning_rate)

        def descend(batch: Tensor, target: Tensor, progress: float) -> Tensor:
            halvings = int(progress * config.epochs + 1e-9) // config.halved_every
            set_rate(optimizer, config.learning_rate / 2**halvings)
            return step(optimizer, functional.mse_loss(network(batch), target))

        self.network = network
        self.findings = fit(
            self.name,
            network,
            descend,
            features,
            known.public,
            config,
            run,
            modules={"network": network},
            optimizers={"adam": optimizer},
            begin=lambda features, _: network.adapt(features),
            least_steps=LEAST_STEPS,
        )
        return predict(network, known.captured, run.device)

"""A matcher of features: a small network that gives two views of one picture alike vectors, trained on public ones."""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splitleak.config import Config
from splitleak.logs import Report, silent
from splitleak.measures.linkage.whitening import Whitening
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, epochs

_LEAST_VIEWS = 2


class SiameseConfig(Config):
    """Size and training of the network."""

    inputs: int = Field(default=512, ge=1, description="whitened principal components that it sees, at most")
    width: int = Field(default=512, ge=1)
    dimensions: int = Field(default=128, ge=1, description="of the vectors that are compared")
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=256, ge=2, description="pictures, each told from all others of its batch")
    learning_rate: float = Field(default=1e-3, gt=0)
    temperature: float = Field(default=0.1, gt=0)


class Matcher(nn.Module):
    """Features ``(N, *cut)`` to unit vectors ``(N, dimensions)``, whose distances tell pictures apart."""

    def __init__(self, whitening: Whitening, config: SiameseConfig) -> None:
        super().__init__()
        self.whitening, self.inputs = whitening, config.inputs
        given = min(config.inputs, len(whitening.scales))
        self.shortcut = nn.Linear(given, config.dimensions, bias=False)
        self.layers = nn.Sequential(
            nn.Linear(given, config.width), nn.ReLU(), nn.Linear(config.width, config.dimensions, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.vectors(self.whitening.principal(features, self.inputs))

    def vectors(self, components: Tensor) -> Tensor:
        """The unit vectors of whitened principal components ``(N, inputs)``."""
        return functional.normalize(self.shortcut(components) + self.layers(components), dim=1)


def train_matcher(
    features: Iterable[Tensor], whitening: Whitening, config: SiameseConfig, seed: int, report: Report = silent
) -> Matcher:
    r"""Trains a matcher by contrast: a view is to be nearest to another view of its picture, among those of a batch.

    .. math:: -\log \frac{\exp(u_i \cdot v_i / \tau)}{\sum_j \exp(u_i \cdot v_j / \tau)}, \text{ both ways}

    Chen et al., "A simple framework for contrastive learning of visual representations" (SimCLR), ICML 2020; Bromley et
    al., "Signature verification using a Siamese time delay neural network", 1993.

    Args:
        features: ``(M, *cut)`` of M public pictures as they crossed the wire, once for each of at least two views.
        whitening: Of the features.
        config: Size and training.
        seed: Of the weights and the batches.
        report: Hears of progress.

    Raises:
        ValueError: There are fewer than two views of each.
    """
    seen = torch.stack([whitening.principal(view, config.inputs) for view in features])
    count, pictures = seen.shape[:2]
    if count < _LEAST_VIEWS:
        raise ValueError(f"expected at least two views of each picture, got {count}")
    with seeded(seed, "siamese", "weights"):
        matcher = Matcher(whitening, config)
    draw = generator(seed, "siamese", "batches")
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    batches = -(-pictures // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.epochs * batches)
    state = Resumable("", {"matcher": matcher}, {"adam": optimizer}, {"batches": draw})
    for _ in epochs("match", config.epochs, state, None, report):
        total = 0.0
        for batch in state.steps(torch.randperm(pictures, generator=draw).split(config.batch_size), batches):
            shift = torch.randint(1, count, (len(batch),), generator=draw)
            first = torch.randint(count, (len(batch),), generator=draw)
            own, other = (matcher.vectors(seen[view % count, batch]) for view in (first, first + shift))
            alike, truth = own @ other.T / config.temperature, torch.arange(len(batch))
            loss = (functional.cross_entropy(alike, truth) + functional.cross_entropy(alike.T, truth)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        state.history.append({"loss": total / pictures})
    return matcher.requires_grad_(False).eval()

"""LoR: a last layer of low rank with a saturating activation in it, so that logits say little of the feature."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.defenses.base import Defense, EpochEnd, Start
from splitleak.defenses.features.layers import last_linear
from splitleak.defenses.features.pruning import Place
from splitleak.models.split import SplitModel

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
}


class LowRankConfig(Config):
    """How narrow the head is, and when it takes over."""

    rank: int = Field(default=8, ge=1, description="width of the layer in between; published: 30 to 50")
    activation: Literal["tanh", "identity", "relu", "sigmoid"] = Field(default="tanh", description="behind that layer")
    swap_at: float = Field(
        default=0.0, ge=0, lt=1, description="share of the epochs that the ordinary head is trained for before it"
    )


class LowRankHead(nn.Module):
    """Features ``(N, d)`` to logits ``(N, K)`` through ``rank`` values and their activation."""

    def __init__(self, features: int, rank: int, classes: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(features, rank)
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.Linear(rank, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.up(self.activation(self.down(features)))
        return logits


class _Swapped(nn.Module):
    """An ordinary layer until the low-rank one takes over. Both are there throughout, for the optimiser's sake."""

    over: Tensor  # () whether it has

    def __init__(self, ordinary: nn.Linear, low_rank: LowRankHead) -> None:
        super().__init__()
        self.ordinary = ordinary
        self.low_rank = low_rank
        self.register_buffer("over", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.low_rank(features) if self.over else self.ordinary(features)
        return logits


class LowRank(Defense):
    r"""Puts a `LowRankHead` in place of the last layer, from the start or after a share of the epochs.

    .. math:: \mathrm{logits} = B \tanh(A h + a) + b, \qquad A \in R^{r \times d},\ B \in R^{K \times r}

    Whatever of the feature is not in r values is not in the logits, and the tanh, once saturated, passes hardly any
    gradient to an attacker. With `confidence-adaptation` in the stack it is CALoR: Yu et al., "CALoR: towards
    comprehensive model inversion defense", 2024 (arXiv:2410.05814). Published ranks: 30 of 530 classes, 50 at 224
    pixels, where the ordinary head is trained for half of the epochs first. Deviation: published code has a batch
    normalisation in front, the paper has none, nor have we.
    Shapes: features h ``(N, d)`` at the last layer, logits ``(N, K)``. What is swapped in starts untrained, at the
    learning rate of that epoch.

    Raises:
        ValueError: The head does not end in a linear layer, or the rank is not below its inputs.
    """

    name = "low-rank"
    config_type = LowRankConfig

    def __init__(self, config: LowRankConfig) -> None:
        super().__init__(config)
        self.config = config
        self._place: tuple[Place, ...] = ()  # in a tuple, for it is the model's and not its own

    def prepare(self, model: SplitModel, classes: int) -> None:
        place, last = last_linear(model.head, self.name)
        rank = self.config.rank
        if rank >= last.in_features:
            raise ValueError(f"low-rank: expected a rank below the {last.in_features} inputs, got {rank}")
        low_rank = LowRankHead(last.in_features, rank, last.out_features, self.config.activation)
        place.put(_Swapped(last, low_rank) if self.config.swap_at else low_rank)
        self._place = (place,)

    def begin(self, start: Start) -> None:
        self._swap_if(int(self.config.swap_at * start.epochs) == 0)

    def on_epoch(self, end: EpochEnd) -> None:
        self._swap_if(end.epoch + 1 >= int(self.config.swap_at * end.epochs))

    def finish(self, model: SplitModel) -> None:
        (place,) = self._place
        if isinstance(place.layer, _Swapped):
            place.put(place.layer.low_rank)

    def findings(self, model: SplitModel) -> dict[str, Any]:
        (place,) = self._place
        return {"head_parameters": sum(parameter.numel() for parameter in place.layer.parameters())}

    def _swap_if(self, due: bool) -> None:
        (place,) = self._place
        if due and isinstance(place.layer, _Swapped):
            place.layer.over.fill_(True)

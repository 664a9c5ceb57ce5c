"""Low-rank head, the LoR of CALoR: a last layer of low rank with a saturating activation inside."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.defenses.base import AdaptiveAttack, Defense, EpochEnd, Head, TrainingStart
from splitleak.defenses.features.layers import last_linear
from splitleak.defenses.features.pruning import LayerSlot
from splitleak.models.split import SplitModel
from splitleak.training.modules import HostState

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
}


class LowRankConfig(Config):
    """Rank and activation of the head, and the epoch from which it is used."""

    rank: int = Field(default=8, ge=1, description="width of the inner layer; published: 30 to 50")
    activation: Literal["tanh", "identity", "relu", "sigmoid"] = Field(
        default="tanh", description="activation after the inner layer"
    )
    swap_at: float = Field(
        default=0.0, ge=0, lt=1, description="share of the epochs that the ordinary head is trained for first"
    )


class LowRankHead(Head):
    """Features ``(N, d)`` to logits ``(N, K)`` through an inner layer of ``rank`` values and an activation."""

    def __init__(self, features: int, rank: int, classes: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(features, rank)
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.Linear(rank, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.up(self.activation(self.down(features)))
        return logits

    def unmask(self) -> None:
        """The backward pass replaces the saturating activation by the identity."""
        self.activation = _StraightThrough(self.activation)


class _StraightThrough(nn.Module):
    """Straight-through estimator: the activation in the forward pass, the identity in the backward pass."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, values: Tensor) -> Tensor:
        own: Tensor = self.activation(values.detach())
        return own + (values - values.detach())


class _ScheduledHead(HostState):
    """The ordinary head, then the low-rank one. Both exist throughout, so that the optimiser holds their parameters."""

    on_host = ("over",)
    over: Tensor  # () bool: whether the low-rank head is used

    def __init__(self, ordinary: nn.Linear, low_rank: LowRankHead) -> None:
        super().__init__()
        self.ordinary = ordinary
        self.low_rank = low_rank
        self.register_buffer("over", torch.tensor(False, device="cpu"))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.low_rank(features) if self.over else self.ordinary(features)
        return logits


class LowRank(Defense):
    r"""Replaces the last layer by a `LowRankHead`, from the start or after a share of the epochs.

    .. math:: \mathrm{logits} = B \tanh(A h + a) + b, \qquad A \in R^{r \times d},\ B \in R^{K \times r}

    The logits depend on the feature through r values only, and the gradient through the saturated tanh nearly
    vanishes for an attacker. With `confidence-adaptation` in the stack it is CALoR: Yu et al., "CALoR: towards
    comprehensive model inversion defense", 2024 (arXiv:2410.05814). Published ranks: 30 for 530 classes, 50 at 224
    pixels, where the ordinary head is trained for half of the epochs first. Deviation from the published code: no
    batch normalisation before the head, as in the paper.
    Shapes: features h ``(N, d)`` at the last layer, logits ``(N, K)``. A head that is swapped in later starts
    untrained, at the learning rate of that epoch.

    Raises:
        ValueError: The head does not end in a linear layer, or the rank is not below its number of inputs.
    """

    name = "low-rank"
    config_type = LowRankConfig

    def __init__(self, config: LowRankConfig) -> None:
        super().__init__(config)
        self.config = config
        self._slot: tuple[LayerSlot, ...] = ()  # in a tuple: not a submodule

    @property
    def adaptive_attacks(self) -> frozenset[AdaptiveAttack]:
        """By the features before the head, and past an activation that saturates."""
        return frozenset({"features"} if self.config.activation == "identity" else {"gradients", "features"})

    def prepare(self, model: SplitModel, classes: int) -> None:
        slot, last = last_linear(model.head, self.name)
        rank = self.config.rank
        if rank >= last.in_features:
            raise ValueError(f"low-rank: expected a rank below the {last.in_features} inputs, got {rank}")
        low_rank = LowRankHead(last.in_features, rank, last.out_features, self.config.activation)
        slot.replace(_ScheduledHead(last, low_rank) if self.config.swap_at else low_rank)
        self._slot = (slot,)

    def begin(self, start: TrainingStart) -> None:
        self._swap_if(int(self.config.swap_at * start.epochs) == 0)

    def on_epoch(self, end: EpochEnd) -> None:
        self._swap_if(end.epoch + 1 >= int(self.config.swap_at * end.epochs))

    def finish(self, model: SplitModel) -> None:
        (slot,) = self._slot
        if isinstance(slot.layer, _ScheduledHead):
            slot.replace(slot.layer.low_rank)

    def findings(self, model: SplitModel) -> dict[str, Any]:
        (slot,) = self._slot
        return {"head_parameters": sum(parameter.numel() for parameter in slot.layer.parameters())}

    def _swap_if(self, due: bool) -> None:
        (slot,) = self._slot
        if due and isinstance(slot.layer, _ScheduledHead):
            slot.layer.over.fill_(True)

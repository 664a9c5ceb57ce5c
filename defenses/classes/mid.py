"""MID, mutual information regularisation: a variational information bottleneck before the last layer."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splitleak.config import Config
from splitleak.defenses.base import AdaptiveAttack, Defense, Head, Step
from splitleak.defenses.features.layers import last_linear
from splitleak.measures.divergence import kl_to_standard_normal
from splitleak.models.split import SplitModel

_SHIFT = 5.0


class MIDConfig(Config):
    """Weight of the KL divergence, and whether the code is sampled at inference."""

    beta: float = Field(default=0.01, ge=0, description="weight of the KL divergence; published: 0.003 to 0.2")
    noise_at_test: bool = Field(
        default=False, description="sample the code at inference too, as published code does; else take its mean"
    )


class VariationalHead(Head):
    r"""Variational information bottleneck: features h ``(N, d)`` to logits ``(N, K)`` through a Gaussian code t.

    .. math:: (\mu, s) = A h + a, \qquad \sigma = \mathrm{softplus}(s - 5), \qquad t = \mu + \sigma \varepsilon,
              \qquad \mathrm{logits} = W t + w

    The code has ``d // 2`` values. In eval mode, unless ``noise_at_test``, t is its mean :math:`\mu`. Samples are drawn
    from ``generator``, or from torch's global generator where that is None, as in dropout.
    """

    def __init__(self, features: int, classes: int, noise_at_test: bool) -> None:
        super().__init__()
        self.posterior = nn.Linear(features, 2 * (features // 2))
        self.classifier = nn.Linear(features // 2, classes)
        self.noise_at_test = noise_at_test
        self.generator: torch.Generator | None = None
        self.divergence: Tensor | None = None  # mean KL divergence of the last training batch, in nats

    def forward(self, features: Tensor) -> Tensor:
        mean, raw = self.posterior(features).chunk(2, 1)
        code = mean
        if self.training or self.noise_at_test:
            deviation = functional.softplus(raw.float() - _SHIFT)
            code = mean + deviation * torch.empty_like(deviation).normal_(generator=self.generator)
            if self.training:
                self.divergence = kl_to_standard_normal(mean.float(), deviation).mean()
        logits: Tensor = self.classifier(code)
        return logits

    def unmask(self) -> None:
        """The code is its mean."""
        self.noise_at_test = False


class MID(Defense):
    r"""Replaces the last layer by a `VariationalHead`, and penalises the KL divergence of its code from N(0, 1).

    .. math:: \mathrm{CE}(y, W t + w) + \beta\,\mathrm{KL}\bigl(N(\mu, \sigma^2)\,\Vert\,N(0, 1)\bigr)

    Wang et al., "Improving robustness to model inversion attacks via mutual information regularization", AAAI 2021
    (arXiv:2009.05241): a variational upper bound of the mutual information between image and prediction. The divergence
    is summed over the code and averaged over the batch. Published weights: 0.003 to 0.02 on CelebA, 0.2 on MNIST, 0.15
    on CIFAR-10. Deviation: at inference the code is its mean, so predictions are deterministic; published code samples
    there too (``noise_at_test``), and an adaptive attacker takes the mean.
    Shapes: features ``(N, d)`` at the last layer, d at least 2; code ``(N, d // 2)``.

    Raises:
        ValueError: The head does not end in a linear layer of at least two inputs.
    """

    name = "mid"
    config_type = MIDConfig

    def __init__(self, config: MIDConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def adaptive_attacks(self) -> frozenset[AdaptiveAttack]:
        """By the features before the bottleneck, and by the mean of a code that is drawn at inference."""
        return frozenset({"gradients", "features"} if self.config.noise_at_test else {"features"})

    @property
    def answers_anew(self) -> bool:
        return self.config.noise_at_test

    def prepare(self, model: SplitModel, classes: int) -> None:
        slot, last = last_linear(model.head, self.name)
        if last.in_features < 2:
            raise ValueError(f"mid: expected a last layer of at least 2 inputs, got {last.in_features}")
        head = VariationalHead(last.in_features, last.out_features, self.config.noise_at_test)
        slot.replace(head)
        self._head = (head,)  # in a tuple: not a submodule

    def penalty(self, step: Step) -> Tensor | None:
        (head,) = self._head
        divergence, head.divergence = head.divergence, None
        return None if divergence is None or self.config.beta == 0 else self.config.beta * divergence

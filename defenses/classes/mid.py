"""MID: a variational bottleneck before the last layer, so that scores tell of the image little but its class."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splitleak.config import Config
from splitleak.defenses.base import Defense, Step
from splitleak.defenses.features.layers import last_linear
from splitleak.measures.divergence import kl_to_standard_normal
from splitleak.models.split import SplitModel

_SHIFT = 5.0


class MIDConfig(Config):
    """Strength of the penalty, and whether a trained model still draws."""

    beta: float = Field(default=0.01, ge=0, description="weight of the divergence; published: 0.003 to 0.2")
    noise_at_test: bool = Field(
        default=False, description="draw the code in use too, as published code does; else take its mean"
    )


class VariationalHead(nn.Module):
    r"""Features h ``(N, d)`` to logits ``(N, K)`` through a random code t of half the width.

    .. math:: (\mu, s) = A h + a, \qquad \sigma = \mathrm{softplus}(s - 5), \qquad t = \mu + \sigma \varepsilon,
              \qquad \mathrm{logits} = W t + w

    In eval mode, unless ``noise_at_test``, t is its mean. It draws from ``generator``, or from the global stream where
    that is None, as dropout does.
    """

    def __init__(self, features: int, classes: int, noise_at_test: bool) -> None:
        super().__init__()
        self.posterior = nn.Linear(features, 2 * (features // 2))
        self.classifier = nn.Linear(features // 2, classes)
        self.noise_at_test = noise_at_test
        self.generator: torch.Generator | None = None
        self.divergence: Tensor | None = None  # of the last batch in training, in nats, its mean

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


class MID(Defense):
    r"""Puts a `VariationalHead` in place of the last layer, and adds its divergence from the standard normal.

    .. math:: \mathrm{CE}(y, W t + w) + \beta\,\mathrm{KL}\bigl(N(\mu, \sigma^2)\,\Vert\,N(0, 1)\bigr)

    Wang et al., "Improving robustness to model inversion attacks via mutual information regularization", AAAI 2021
    (arXiv:2009.05241): the variational bound on the information between image and prediction. The divergence is summed
    over the code and averaged over the batch. Published weights: 0.003 to 0.02 on CelebA, 0.2 on MNIST, 0.15 on
    CIFAR-10. Deviation: a trained model takes the mean of the code, and so answers alike every time; published code
    draws there too (``noise_at_test``). An attacker who has the weights takes the mean anyhow.
    Shapes: features ``(N, d)`` at the last layer, d at least 2; code ``(N, d // 2)``.

    Raises:
        ValueError: The head does not end in a linear layer of at least two inputs.
    """

    name = "mid"
    config_type = MIDConfig

    def __init__(self, config: MIDConfig) -> None:
        super().__init__(config)
        self.config = config

    def prepare(self, model: SplitModel, classes: int) -> None:
        place, last = last_linear(model.head, self.name)
        if last.in_features < 2:
            raise ValueError(f"mid: expected a last layer of at least 2 inputs, got {last.in_features}")
        head = VariationalHead(last.in_features, last.out_features, self.config.noise_at_test)
        place.put(head)
        self._head = (head,)  # in a tuple, for it is the model's and not its own

    def penalty(self, step: Step) -> Tensor | None:
        (head,) = self._head
        divergence, head.divergence = head.divergence, None
        return None if divergence is None or self.config.beta == 0 else self.config.beta * divergence

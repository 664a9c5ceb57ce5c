"""CEM, conditional entropy maximisation: keeps the entropy of the image given the transmitted features high."""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense, EpochEnd, Step
from splitleak.measures.clusters import kmeans, kmeans_init
from splitleak.measures.entropy import mixture_information
from splitleak.models.split import SplitModel
from splitleak.seeding import generator

_LARGEST_BLEND = 0.99
_BLEND_SPEED = 10.0  # a batch is weighted ten times its share of the class
_SCALED_ABOVE = 0.00041  # learning rate below which the reference no longer scales its weight


class CEMConfig(Config):
    """Weight and form of the penalty, and the Gaussian mixture it is computed from."""

    mode: Literal["paper", "reference"] = Field(
        default="paper", description="the bound of the paper, or the loss of its published code"
    )
    weight: float = Field(default=0.1, ge=0, description="lambda; the reference's published values are 8 and 16")
    clusters: int = Field(default=5, ge=1, description="components of the Gaussian mixture, per class")
    lloyd_steps: int = Field(default=50, ge=1, description="maximum iterations of k-means after each epoch")
    gamma: float = Field(default=0.01, gt=0, description="reference mode: constant inside its logarithms")
    threshold: float = Field(
        default=0.125, ge=0, description="reference mode: tau, variance floor in multiples of the noise variance"
    )


class CEM(Defense):
    r"""Adds an upper bound of the mutual information between image and noisy features to the task loss.

    Xia et al., "Theoretical insights in model inversion robustness and conditional entropy maximization for
    collaborative inference systems", CVPR 2025, with its supplement.

    The noise-free features :math:`\hat z`, ``(N, *cut)``, flattened to ``(N, d)``, are modelled after each epoch by a
    Gaussian mixture of ``clusters`` components per class (hard k-means, warm-started), on the augmented training
    images.

    ``paper`` mode adds the bound of equation S8, per dimension, with diagonal covariances and the variance :math:`s`
    of the noise that the stack adds to the features:

    .. math:: \frac{\lambda}{d} \sum_i \pi_i \Big(-\log \pi_i + \frac12 \sum_j \log \frac{v_{ij} + s}{s}\Big)

    Assignments, means and variances are those of the last epoch; the gradient of the bound with respect to the
    variances is propagated to the features of the batch, treated as a sample of the training set:
    :math:`\lambda (\hat z - \mu_i) / (B\,d\,(v_i + s))`. Deviations: divided by d, so that one weight fits any
    cut; the mixture is fitted per class, as in the published code.

    ``reference`` mode is the loss of the published code (`reference_loss`), with its weight scaled by the learning
    rate (`reference_weight`). Deviations: statistics are those of the correct class (the code reads those of the first
    classes in the batch); an empty cluster has weight 0 and keeps its index (the code shifts the others); one backward
    pass for the whole loss (the code makes two, which costs 12 % of a step).

    There is no penalty in the first epoch, before the first mixture is fitted, and none on a class with no more
    training pictures than ``clusters``, to which none can be fitted; findings count these classes where there are any.

    Raises:
        ValueError: In ``paper`` mode, the stack adds no noise: the bound is infinite without it. After the first epoch:
            no class has more training pictures than ``clusters``.
    """

    name = "cem"
    config_type = CEMConfig
    means: Tensor  # (classes, clusters, d)
    variances: Tensor  # (classes, clusters, d), around the means
    counts: Tensor  # (classes, clusters)

    def __init__(self, config: CEMConfig) -> None:
        super().__init__(config)
        self.config = config
        self._known: tuple[int, bool] | None = None

    @property
    def unused(self) -> frozenset[str]:
        return frozenset({"gamma", "threshold"} if self.config.mode == "paper" else ())

    def prepare(self, model: SplitModel, classes: int) -> None:
        if self.config.mode == "paper" and self.noise_variance_on_wire == 0:
            raise ValueError("cem: expected noise in the stack (its bound is infinite without), got none")
        dimensions = math.prod(model.feature_shape)
        shape = (classes, self.config.clusters, dimensions)
        self.register_buffer("means", torch.zeros(shape))
        self.register_buffer("variances", torch.zeros(shape))
        self.register_buffer("counts", torch.zeros(shape[:2]))

    def penalty(self, step: Step) -> Tensor | None:
        if self.config.weight == 0 or not self._is_fitted(step.epoch):
            return None
        features = step.features.flatten(1).float()
        if features.shape[1] != self.means.shape[2]:
            expected = f"features of {self.means.shape[2]} values (a defense that changes their shape comes before cem)"
            raise ValueError(f"cem: expected {expected}, got {features.shape[1]}")
        noise = self.noise_variance_on_wire
        if self.config.mode == "paper":
            return self.config.weight / features.shape[1] * self.bound(features, step.labels, noise)
        loss = reference_loss(
            features,
            step.labels,
            means=self.means,
            variances=self.variances.mean(2),
            counts=self.counts,
            class_size=self.counts.sum() / len(self.counts),
            noise_variance=noise,
            threshold=self.config.threshold,
            gamma=self.config.gamma,
        )
        return reference_weight(self.config.weight, step.learning_rate) * loss

    def _is_fitted(self, epoch: int) -> bool:
        """Whether there is a mixture, which is read from the device once an epoch: it changes between epochs alone."""
        if self._known is None or self._known[0] != epoch:
            self._known = (epoch, bool(self.counts.any()))
        return self._known[1]

    def bound(self, features: Tensor, labels: Tensor, noise_variance: float) -> Tensor:
        """Equation S8 for the mixture, a scalar in nats, with its gradient for the batch (see the class).

        Features of a class without a mixture have no gradient.

        Args:
            features: ``(B, d)``, noise-free.
            labels: ``(B,)``.
            noise_variance: s, per dimension.
        """
        weights = self.counts.flatten() / self.counts.sum()
        value = mixture_information(weights, self.variances.flatten(0, 1), noise_variance)
        cluster = nearest(features.detach(), labels, self.means, self.counts)
        mean, variance = self.means[labels, cluster], self.variances[labels, cluster]
        terms = (features - mean).square() / (variance + noise_variance)
        fitted = self.counts[labels].any(1, keepdim=True)
        gradient_term = torch.where(fitted, terms, torch.zeros_like(terms)).sum() / (2 * len(features))
        return value + gradient_term - gradient_term.detach()

    @torch.no_grad()
    def on_epoch(self, end: EpochEnd) -> None:
        self._known = None
        features, labels = end.training_features()
        flat = features.flatten(1).float()
        draw = generator(self.generator.initial_seed() if self.generator else 0, "k-means", end.epoch)
        for label in range(len(self.means)):
            members = flat[labels == label]
            if len(members) <= self.config.clusters:
                continue
            fitted = bool(self.counts[label].any())
            start = self.means[label] if fitted else kmeans_init(members, self.config.clusters, draw)
            means, assigned = kmeans(members, start, self.config.lloyd_steps)
            counts = torch.bincount(assigned, minlength=len(means)).to(flat)
            squares = torch.zeros_like(means).index_add_(0, assigned, (members - means[assigned]).square())
            self.means[label], self.counts[label] = means, counts
            self.variances[label] = squares / counts.clamp(min=1)[:, None]
        if self.config.weight > 0 and not bool(self.counts.any()):
            expected = f"a class of more than {self.config.clusters} training pictures (clusters)"
            raise ValueError(f"cem: expected {expected}, got at most {int(labels.bincount().max())}")

    def findings(self, model: SplitModel) -> dict[str, Any]:
        without = int((~self.counts.any(1)).sum())
        return {"classes_without_mixture": without} if without and self.config.weight > 0 else {}


def nearest(features: Tensor, labels: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """Index of the nearest non-empty cluster of each sample's own class.

    Args:
        features: ``(N, d)``.
        labels: ``(N,)``.
        means: Cluster centres ``(classes, clusters, d)``.
        counts: Cluster sizes ``(classes, clusters)``.

    Returns:
        ``(N,)`` int64, from 0 to clusters - 1.
    """
    own = means[labels]  # (N, clusters, d)
    distances = torch.baddbmm(own.square().sum(2, keepdim=True), own, features[:, :, None], alpha=-2)[..., 0]
    return distances.masked_fill(counts[labels] == 0, torch.inf).argmin(1)


def reference_loss(
    features: Tensor,
    labels: Tensor,
    *,
    means: Tensor,
    variances: Tensor,
    counts: Tensor,
    class_size: float | Tensor,
    noise_variance: float,
    threshold: float,
    gamma: float,
) -> Tensor:
    r"""The loss of CEM's published code, a scalar, with the statistics of the correct class.

    For every cluster j of class c to which ``n`` samples of the batch are assigned,
    :math:`\pi_{jc}\,\mathrm{ReLU}(\log(v + \gamma) - \log(\tau s + \gamma))`, where v is a moving average of the
    batch's scalar variance around the stored mean, with weight ``a = 10 n / (pi * class_size)`` (0.99 where that
    reaches 1), and the stored variance; summed over clusters and divided by the number of classes in the batch.

    Args:
        features: ``(N, d)``.
        labels: ``(N,)``.
        means: ``(classes, clusters, d)``.
        variances: ``(classes, clusters)``, mean over samples and dimensions.
        counts: ``(classes, clusters)``, samples per cluster; their shares in the class are the weights pi.
        class_size: Samples per class in an epoch.
        noise_variance: s, the variance of the noise on the features.
        threshold: tau.
        gamma: The constant inside the logarithms.
    """
    clusters = means.shape[1]
    cluster = nearest(features.detach(), labels, means, counts)
    slot = labels * clusters + cluster  # (N,)
    squares = (features - means[labels, cluster]).square().mean(1)
    hits = squares.new_zeros(counts.numel()).index_add(0, slot, torch.ones_like(squares))
    batch_variance = torch.zeros_like(hits).index_add(0, slot, squares) / hits.clamp(min=1)
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1)).flatten()
    blend = _BLEND_SPEED * hits / (share * class_size).clamp(min=1e-12)
    blend = torch.where(blend >= 1, torch.full_like(blend, _LARGEST_BLEND), blend)
    variance = blend * batch_variance + (1 - blend) * variances.flatten()
    excess = torch.relu(torch.log(variance + gamma) - math.log(threshold * noise_variance + gamma))
    terms = torch.where(hits > 0, share * excess, torch.zeros_like(excess))
    return terms.sum() / (hits.view_as(counts) > 0).any(1).sum()


def reference_weight(weight: float, learning_rate: float) -> float:
    """The published code's loss weight: ``weight * 0.001 / learning_rate``, and ``weight`` below a rate of 0.00041.

    >>> [round(reference_weight(16, rate), 6) for rate in (0.05, 0.01, 0.002, 4e-4)]
    [0.32, 1.6, 8.0, 16]
    """
    return weight * 0.001 / learning_rate if learning_rate >= _SCALED_ABOVE else weight

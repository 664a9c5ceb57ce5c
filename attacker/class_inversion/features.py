"""Feature matching as identity loss: the distance from a class's mean penultimate feature on public images."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.measures.identity import feature_distance


class MatchedFeatures(Config):
    """In place of a loss of the logits, the distance from a class's mean feature; see `FeatureGoal`."""

    loss: Literal["features"]
    each: int = Field(default=30, ge=1, description="public images of highest score that give a class's mean")


@dataclass(frozen=True)
class FeatureGoal:
    r"""The target of each class in the space of penultimate features.

    .. math:: L_{id}(x, y) = \frac{\|h(x) - \bar h_y\|^2}{E_a \|h(a) - \bar h\|^2}

    h is the input of the head; the mean for y is over the ``each`` public images a with the highest confidence, as in
    PLG-MI. A head that discards information (low rank, Tanh, noisy code) does not limit it, as the loss bypasses the
    head. The bars are means, the denominator is over all public images.
    """

    body: nn.Module  # images (N, C, H, W) to what its head is given, (N, d)
    means: Tensor  # (K, d)
    spread: float  # the denominator

    @classmethod
    def of(cls, body: nn.Module, features: Tensor, scores: Tensor, each: int) -> "FeatureGoal":
        """From public images' ``features`` ``(M, d)`` and the model's ``scores`` of them ``(M, K)``.

        Raises:
            ValueError: The features are all the same, or there are none.
        """
        spread = float((features - features.mean(0)).square().sum(1).mean())
        if not spread > 0:
            raise ValueError(f"expected features of public images that differ, got {len(features)} of spread {spread}")
        return cls(body, features[top_public_images(scores, each)].mean(1), spread)

    def distance(self, features: Tensor, labels: Tensor) -> Tensor:
        """The identity loss ``(N,)`` for classes ``(N,)`` of images with ``features`` ``(N, d)``."""
        return feature_distance(features, labels, self.means, self.spread)


def top_public_images(scores: Tensor, each: int) -> Tensor:
    """Indices ``(K, each)`` of the images with the highest score of each class, of scores ``(M, K)``; all, if fewer."""
    return scores.topk(min(each, len(scores)), dim=0).indices.T

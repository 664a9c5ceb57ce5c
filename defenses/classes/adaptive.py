"""White-box and adaptive attacks: the models that an attacker with the weights attacks instead of the deployed one."""

import copy

from torch import Tensor, nn

from splitleak.defenses.artifact import WholeModel
from splitleak.defenses.classes.low_rank import LowRankHead
from splitleak.defenses.classes.mid import VariationalHead
from splitleak.defenses.features.layers import last_layer


def white_box(whole: WholeModel) -> nn.Module:
    """A copy of the model without its defenses on the wire and their randomness: images ``(N, C, H, W)`` to logits."""
    return nn.Sequential(copy.deepcopy(whole.edge.encoder), copy.deepcopy(whole.cloud.head)).eval()


def adaptive_model(whole: WholeModel) -> nn.Module:
    """A `white_box` with unmasked gradients for adaptive attacks: images ``(N, C, H, W)`` to logits ``(N, K)``.

    The backward pass replaces the saturating activation of a low-rank head by the identity, the forward pass is the
    deployed one (BPDA, backward pass differentiable approximation: Athalye et al., "Obfuscated gradients give a false
    sense of security", ICML 2018). A variational head takes the mean of its code. Other models are unchanged. Attack
    `white_box` too and keep the better result of the two.
    """
    model = white_box(whole)
    for layer in model.modules():
        if isinstance(layer, LowRankHead):
            layer.activation = _StraightThrough(layer.activation)
        elif isinstance(layer, VariationalHead):
            layer.noise_at_test = False
    return model


def feature_extractor(model: nn.Module) -> nn.Module:
    """A copy of a model without its last layer: images ``(N, C, H, W)`` to penultimate features ``(N, d)``.

    A low-rank or variational head counts as one layer.

    Raises:
        ValueError: The model is not a sequence of layers that ends in a linear layer or one of those heads.
    """
    body = copy.deepcopy(model)
    last = last_layer(body)
    if not isinstance(last.layer, nn.Linear | LowRankHead | VariationalHead):
        got = type(last.layer).__name__
        raise ValueError(f"expected a model that ends in a linear, low-rank or variational layer, got {got}")
    last.replace(nn.Identity())
    return body


def obfuscates_gradients(whole: WholeModel) -> bool:
    """Whether `adaptive_model` differs from `white_box`, so that an attack on it is worth running too."""
    kinds = whole.cloud.head.modules()
    return any(
        (isinstance(layer, LowRankHead) and not isinstance(layer.activation, nn.Identity))
        or (isinstance(layer, VariationalHead) and layer.noise_at_test)
        for layer in kinds
    )


class _StraightThrough(nn.Module):
    """Straight-through estimator: the activation in the forward pass, the identity in the backward pass."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, values: Tensor) -> Tensor:
        own: Tensor = self.activation(values.detach())
        return own + (values - values.detach())

"""What an attacker who knows the defense, and has the weights, attacks in place of the deployed model."""

import copy

from torch import Tensor, nn

from splitleak.defenses.artifact import WholeModel
from splitleak.defenses.classes.low_rank import LowRankHead
from splitleak.defenses.classes.mid import VariationalHead
from splitleak.defenses.features.layers import last_layer


def white_box(whole: WholeModel) -> nn.Module:
    """A copy of the model without the randomness of its defenses on the wire: images ``(N, C, H, W)`` to logits."""
    return nn.Sequential(copy.deepcopy(whole.edge.encoder), copy.deepcopy(whole.cloud.head)).eval()


def adaptive_model(whole: WholeModel) -> nn.Module:
    """A `white_box` that gives gradients where the defense hides them: images ``(N, C, H, W)`` to logits ``(N, K)``.

    Gradients bypass the activation of a low-rank head, as if what saturates were not there; its logits stay the
    deployed ones, so that an attack selects by them: Athalye et al., "Obfuscated gradients give a false sense of
    security", ICML 2018, their backward pass. A variational head takes the mean of its code. Other models come as they
    are. What is found on it should be compared with what is found on `white_box`, and the better of the two kept.
    """
    model = white_box(whole)
    for layer in model.modules():
        if isinstance(layer, LowRankHead):
            layer.activation = _Bypassed(layer.activation)
        elif isinstance(layer, VariationalHead):
            layer.noise_at_test = False
    return model


def before_head(model: nn.Module) -> nn.Module:
    """A copy of a model up to what goes into its last layer, low-rank and variational heads being one layer.

    Images ``(N, C, H, W)`` to features ``(N, d)``.

    Raises:
        ValueError: The model is no sequence of layers, or does not end in a linear one or one of those heads.
    """
    body = copy.deepcopy(model)
    last = last_layer(body)
    if not isinstance(last.layer, nn.Linear | LowRankHead | VariationalHead):
        got = type(last.layer).__name__
        raise ValueError(f"expected a model that ends in a linear, low-rank or variational layer, got {got}")
    last.put(nn.Identity())
    return body


def bypasses_a_defense(whole: WholeModel) -> bool:
    """Whether `adaptive_model` differs from `white_box`, so that attacking both tells something."""
    kinds = whole.cloud.head.modules()
    return any(
        (isinstance(layer, LowRankHead) and not isinstance(layer.activation, nn.Identity))
        or (isinstance(layer, VariationalHead) and layer.noise_at_test)
        for layer in kinds
    )


class _Bypassed(nn.Module):
    """An activation whose values are its own and whose gradients are those of the identity."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, values: Tensor) -> Tensor:
        own: Tensor = self.activation(values.detach())
        return own + (values - values.detach())

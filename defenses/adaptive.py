"""What an attacker who knows the defense, and has the weights, attacks in place of the deployed model."""

import copy

from torch import nn

from defenses.artifact import WholeModel
from defenses.layers import last_layer
from defenses.low_rank import LowRankHead
from defenses.mid import VariationalHead


def white_box(whole: WholeModel) -> nn.Module:
    """A copy of the model without the randomness of its defenses on the wire: images ``(N, C, H, W)`` to logits."""
    return nn.Sequential(copy.deepcopy(whole.edge.encoder), copy.deepcopy(whole.cloud.head)).eval()


def adaptive_model(whole: WholeModel) -> nn.Module:
    """A `white_box` that gives gradients where the defense hides them: images ``(N, C, H, W)`` to logits ``(N, K)``.

    The activation of a low-rank head is bypassed, which leaves the same weights without what saturates; a variational
    head takes the mean of its code. Other models come as they are. Its scores are not the deployed model's: what it
    finds should be compared with what is found on `white_box`, and the better of the two kept.
    """
    model = white_box(whole)
    for layer in model.modules():
        if isinstance(layer, LowRankHead):
            layer.activation = nn.Identity()
        elif isinstance(layer, VariationalHead):
            layer.noise_at_test = False
    return model


def features_before_head(whole: WholeModel) -> nn.Module:
    """A `white_box` up to what goes into its last layer, low-rank and variational heads being one layer.

    Images ``(N, C, H, W)`` to features ``(N, d)``.
    """
    model = white_box(whole)
    assert isinstance(model, nn.Sequential)
    last_layer(model[1]).put(nn.Identity())
    return model


def bypasses_a_defense(whole: WholeModel) -> bool:
    """Whether `adaptive_model` differs from `white_box`, so that attacking both tells something."""
    kinds = whole.cloud.head.modules()
    return any(
        (isinstance(layer, LowRankHead) and not isinstance(layer.activation, nn.Identity))
        or (isinstance(layer, VariationalHead) and layer.noise_at_test)
        for layer in kinds
    )

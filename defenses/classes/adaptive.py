"""White-box and adaptive attacks: the models that an attacker with the weights attacks instead of the deployed one."""

import copy

from torch import Tensor, nn

from splitleak.defenses.artifact import WholeModel
from splitleak.defenses.base import Head
from splitleak.defenses.features.layers import last_layer
from splitleak.defenses.stack import Stack
from splitleak.training.modules import passes_gradients


def white_box(whole: WholeModel) -> nn.Module:
    """A copy of the model without randomness on the wire: images ``(N, C, H, W)`` to logits ``(N, K)``.

    A noise or a mask is its mean; what a defense does of no chance, as quantisation, the copy does, too, for the head
    was trained on that. Where it lets no gradient through, as a plug-in that rounds may not, gradients pass it
    straight. A head that draws at inference (`MID` with ``noise_at_test``) draws here, see `adaptive_model`.
    """
    encoder, head = copy.deepcopy(whole.edge.encoder), copy.deepcopy(whole.cloud.head)
    if not len(whole.edge.stack.defenses):
        return nn.Sequential(encoder, head).eval()
    edge = _Edge(encoder, copy.deepcopy(whole.edge.stack)).eval()
    reached = [passes_gradients(each, whole.input_shape, whole.edge.device) for each in (encoder, edge)]
    edge.straight = reached == [True, False]
    return nn.Sequential(edge, head).eval()


class _Edge(nn.Module):
    """An encoder, and what its defenses send on average; gradients pass these ``straight``, or through them."""

    def __init__(self, encoder: nn.Module, stack: Stack) -> None:
        super().__init__()
        self.encoder, self.stack, self.straight = encoder, stack, False

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        sent = self.stack.expected(features)
        if not self.straight or sent.shape != features.shape:
            return sent
        return sent.detach() + (features - features.detach())  # zero, with the gradient of the feature


def adaptive_model(whole: WholeModel) -> nn.Module:
    """A `white_box` with unmasked gradients for adaptive attacks: images ``(N, C, H, W)`` to logits ``(N, K)``.

    The backward pass replaces the saturating activation of a low-rank head by the identity, the forward pass is the
    deployed one (BPDA, backward pass differentiable approximation: Athalye et al., "Obfuscated gradients give a false
    sense of security", ICML 2018). A variational head takes the mean of its code. Other models are unchanged: which are
    not, `Defense.adaptive_attacks` says. Attack `white_box` too and keep the better result of the two.
    """
    model = white_box(whole)
    for head in [layer for layer in model.modules() if isinstance(layer, Head)]:
        head.unmask()
    return model


def feature_extractor(model: nn.Module) -> nn.Module:
    """A copy of a model without its last layer: images ``(N, C, H, W)`` to penultimate features ``(N, d)``.

    The head of a defense, low-rank or variational, counts as one layer.

    Raises:
        ValueError: The model is not a sequence of layers that ends in a linear layer or one of those heads.
    """
    body = copy.deepcopy(model)
    last = last_layer(body)
    if not isinstance(last.layer, nn.Linear | Head):
        got = type(last.layer).__name__
        raise ValueError(f"expected a model that ends in a linear layer or the head of a defense, got {got}")
    last.replace(nn.Identity())
    return body

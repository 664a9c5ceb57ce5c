"""PATROL: a deeper, channel-pruned encoder with adversarial training and a Lipschitz regulariser."""

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.defenses.base import EpochEnd, Step
from splitleak.defenses.features.adversary import AdversarialDefense, AdversaryConfig
from splitleak.defenses.features.pruning import GatedBatchNorm, PrunableConv, flatten_sequential, prunable_convolutions
from splitleak.models.architecture import xavier_uniform
from splitleak.models.split import SplitModel

_TINY = 1e-12


class PatrolConfig(AdversaryConfig):
    """The adversary, the pruning ratio and the Lipschitz regulariser."""

    extra_channels: int = Field(default=16, ge=1, description="width of the convolution prepended to the encoder")
    ratio: float = Field(default=0.05, ge=0, lt=1, description="pruning ratio: share of a layer's channels; 0: none")
    exempt: int = Field(default=32, ge=1, description="layers of at most so many output channels are not pruned")
    prune_at: float = Field(default=0.75, gt=0, le=1, description="when to prune, as a share of the epochs")
    lipschitz_weight: float = Field(default=1e-3, ge=0, description="alpha, for every block; 0 as in CEM's code")
    lipschitz_noise: float = Field(
        default=0.05, gt=0, description="standard deviation of the perturbation delta, in units of [0, 1]"
    )
    lipschitz_images: int = Field(default=32, ge=1, description="images per batch that the term is computed on")


class Patrol(AdversarialDefense):
    r"""Deepens the encoder, prunes its least important channels and trains it as `AdversarialDefense` does.

    Ding et al., "PATROL: privacy-oriented pruning for collaborative inference against model inversion attacks", WACV
    2024, arXiv:2307.10981, for which there is no public code; numbers are those of Xia et al., CEM, CVPR 2025.

    - A 3 × 3 convolution to ``extra_channels`` with batch norm and ReLU is put before the encoder's first convolution.
    - Channel pruning: `GatedBatchNorm` accumulates the importance of channels for the whole loss over the epoch before
      pruning; at ``prune_at`` of the epochs the least important are masked in every layer of more than ``exempt``
      channels that feeds exactly one convolution of the encoder, leaving ``int(n * (1 - ratio))`` each. The remaining
      channels continue to train, and `finish` removes the masked ones. With VGG11, cut 4 and a bottleneck, 64 and 128
      channels become 60 and 121.
    - The Lipschitz term, for the encoder's blocks :math:`f_1 \dots f_n` (each begins with a convolution or is a
      residual block; x is the image, :math:`\delta` Gaussian, batch norm in eval mode):

    .. math:: \alpha \sum_i \mathrm{mean}\,\frac{\lVert f_i \cdots f_1(x + \delta) - f_i \cdots f_1(x) \rVert}
              {\lVert f_{i-1} \cdots f_1(x + \delta) - f_{i-1} \cdots f_1(x) \rVert}

    Deviations. From the paper: its soft mask on channels and blocks is learned, here pruning is one-shot, as in
    CEM's tables. From CEM's code: importance is that for the training loss (there for the sum of outputs on random
    noise); the pruned layers continue to train (there the optimiser still holds the old parameters, so they freeze);
    one adversary step (there three, because an option is misread); a ResNet gets the same extra layer as the others
    (there one without batch norm and ReLU, after the stem), Xavier-uniform; CEM's code has no Lipschitz term.

    Raises:
        ValueError: No layer can be pruned, or a defense that changes the features' shape comes later in the stack
            (put a bottleneck before this defense, so that the layer before the bottleneck is pruned too).
    """

    name = "patrol"
    config_type = PatrolConfig

    def __init__(self, config: PatrolConfig) -> None:
        super().__init__(config)
        self.config = config
        self._pruned: list[tuple[PrunableConv, GatedBatchNorm]] = []  # in a list: not submodules

    @property
    def unused(self) -> frozenset[str]:
        of_pruning = {"exempt", "prune_at"} if self.config.ratio == 0 else set()
        of_lipschitz = {"lipschitz_noise", "lipschitz_images"} if self.config.lipschitz_weight == 0 else set()
        return super().unused | of_pruning | of_lipschitz

    def prepare(self, model: SplitModel, classes: int) -> None:
        self._deepen(model)
        prunable = prunable_convolutions(model.encoder)
        chosen = [layer for layer in prunable if self.config.ratio and layer.channels > self.config.exempt]
        if self.config.ratio and not chosen:
            widths = ", ".join(str(layer.channels) for layer in prunable) or "none"
            expected = f"a layer of more than {self.config.exempt} channels (exempt) to prune"
            raise ValueError(f"patrol: expected {expected}, got layers of {widths}")
        self._pruned = [(layer, layer.gate()) for layer in chosen]
        self._model = (model,)
        super().prepare(model, classes)

    def penalty(self, step: Step) -> Tensor | None:
        adversarial = super().penalty(step)
        if self.config.lipschitz_weight == 0:
            return adversarial
        lipschitz = self.config.lipschitz_weight * self.lipschitz(step.images[: self.config.lipschitz_images])
        return lipschitz if adversarial is None else adversarial + lipschitz

    def lipschitz(self, images: Tensor) -> Tensor:
        """The sum over blocks of their mean local Lipschitz ratios at images ``(N, C, H, W)``, in float32."""
        (model,) = self._model
        training = model.encoder.training
        model.encoder.eval()
        noise = torch.empty_like(images).normal_(generator=self.generator)
        activations = torch.cat([images, images + self.config.lipschitz_noise * noise])
        activations = activations.contiguous(memory_format=torch.channels_last)
        distances = [_difference(activations)]
        for block in _blocks(model.encoder):
            for layer in block:
                activations = layer(activations)
            distances.append(_difference(activations))
        model.encoder.train(training)
        return torch.stack([(after / before).mean() for before, after in pairwise(distances)]).sum()

    @torch.no_grad()
    def on_epoch(self, end: EpochEnd) -> None:
        due = end.epoch + 1 == max(1, round(self.config.prune_at * end.epochs))
        for layer, gate in self._pruned:
            if due:
                gate.close(layer.channels - self._kept(layer))
            gate.importance.zero_()  # importance is that of the epoch before pruning alone

    @torch.no_grad()
    def finish(self, model: SplitModel) -> None:
        for layer, gate in self._pruned:
            kept = self._kept(layer)
            if not gate.mask.is_meta:
                gate.close(layer.channels - kept)
            layer.cut(slice(kept) if gate.mask.is_meta else gate.mask.nonzero().flatten())
        self._pruned = []

    def _kept(self, layer: PrunableConv) -> int:
        return max(1, int(layer.channels * (1 - self.config.ratio)))

    def _deepen(self, model: SplitModel) -> None:
        slot = next(
            (
                candidate
                for candidate in flatten_sequential(nn.Sequential(model.encoder))
                if isinstance(candidate.layer, nn.Conv2d)
            ),
            None,
        )
        if slot is None:
            raise ValueError("patrol: expected an encoder with a convolution, got one without")
        old, width = slot.layer, self.config.extra_channels
        assert isinstance(old, nn.Conv2d)
        first = nn.Conv2d(
            width,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            stride=old.stride,  # type: ignore[arg-type]
            padding=old.padding,  # type: ignore[arg-type]
            dilation=old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        )
        extra = nn.Conv2d(old.in_channels, width, 3, padding=1)
        deeper = nn.Sequential(extra, nn.BatchNorm2d(width), nn.ReLU(True), first)
        xavier_uniform(deeper)
        slot.replace(deeper)


def _blocks(encoder: nn.Module) -> list[list[nn.Module]]:
    """The encoder's layers in blocks that begin with a convolution; layers before the first belong to its block."""
    blocks: list[list[nn.Module]] = [[]]
    started = False
    for slot in flatten_sequential(nn.Sequential(encoder)):
        convolves = any(isinstance(layer, nn.Conv2d) for layer in slot.layer.modules())
        if convolves and started:
            blocks.append([])
        started = started or convolves
        blocks[-1].append(slot.layer)
    return blocks


def _difference(pair: Tensor) -> Tensor:
    """L2 distances ``(N,)`` between a batch and its perturbed copy, concatenated ``(2N, ...)``; always above 0."""
    before, after = pair.chunk(2)
    return ((after - before).flatten(1).square().sum(1) + _TINY).sqrt()

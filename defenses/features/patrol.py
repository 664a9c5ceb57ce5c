"""PATROL: a deeper edge, pruned, that is trained against an inner adversary and not to stretch small changes."""

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.defenses.base import EpochEnd, Step
from splitleak.defenses.features.adversary import AdversarialDefense, AdversaryConfig
from splitleak.defenses.features.pruning import GatedNorm, Prunable, chain, prunable
from splitleak.models.architecture import xavier_uniform
from splitleak.models.split import SplitModel

_TINY = 1e-12


class PatrolConfig(AdversaryConfig):
    """Strength of the game, how much is pruned, and the Lipschitz term."""

    extra_channels: int = Field(default=16, ge=1, description="width of the layer that the edge is given in front")
    ratio: float = Field(default=0.05, ge=0, lt=1, description="share of a layer's channels that is pruned; 0: none")
    exempt: int = Field(default=32, ge=1, description="layers of at most so many output channels stay whole")
    prune_at: float = Field(default=0.75, gt=0, le=1, description="when to prune, as a share of the epochs")
    lipschitz_weight: float = Field(default=1e-3, ge=0, description="alpha, for every block; 0 as in CEM's code")
    lipschitz_noise: float = Field(default=0.05, gt=0, description="deviation of the shift d, in units of [0, 1]")
    lipschitz_images: int = Field(default=32, ge=1, description="images of a batch that the term is computed on")


class Patrol(AdversarialDefense):
    r"""Gives the edge one more layer, prunes channels away, and plays the game of `AdversarialDefense` all the while.

    Ding et al., "PATROL: privacy-oriented pruning for collaborative inference against model inversion attacks", WACV
    2024, arXiv:2307.10981, for which there is no public code; numbers are those of Xia et al., CEM, CVPR 2025.

    - A 3 × 3 convolution to ``extra_channels`` with batch norm and ReLU goes in front of the encoder's first one.
    - `GatedNorm` weighs channels over the epoch before pruning, by the whole loss; at ``prune_at`` of the epochs those
      that matter least are closed in every layer of more than ``exempt`` channels that feeds one convolution of the
      encoder alone, down to ``int(n * (1 - ratio))`` each. What is left of every layer trains on, and `finish` cuts
      the closed channels out. With VGG11, cut 4 and a bottleneck 64 and 128 channels become 60 and 121.
    - The Lipschitz term, for the encoder's blocks :math:`f_1 \dots f_n` (each begins with a convolution or is a
      residual block; x is the image, :math:`\delta` Gaussian, batch norm in eval mode):

    .. math:: \alpha \sum_i \mathrm{mean}\,\frac{\lVert f_i \cdots f_1(x + \delta) - f_i \cdots f_1(x) \rVert}
              {\lVert f_{i-1} \cdots f_1(x + \delta) - f_{i-1} \cdots f_1(x) \rVert}

    Deviations. From the paper: its soft mask on channels and blocks is learned, here pruning is in one shot, as in
    CEM's tables. From CEM's code: importance is of the loss, that on the images (there of the sum of outputs, on random
    noise); the pruned layers go on training (there the optimiser holds on to the old ones, so they freeze); one step
    of the adversary (there three, by a mistake in reading an option); a ResNet is given the same extra layer as the
    others (there one without batch norm and ReLU, behind the stem), Xavier-uniform; there is no Lipschitz term there.

    Raises:
        ValueError: No layer can be pruned, or a defense that changes the features' shape comes later in the stack:
            a bottleneck comes before, or the layer in front of it would stay whole.
    """

    name = "patrol"
    config_type = PatrolConfig

    def __init__(self, config: PatrolConfig) -> None:
        super().__init__(config)
        self.config = config
        self._pruned: list[tuple[Prunable, GatedNorm]] = []  # in a list, for they are the model's and not its own

    def prepare(self, model: SplitModel, classes: int) -> None:
        self._deepen(model)
        found = prunable(model.encoder)
        chosen = [layer for layer in found if self.config.ratio and layer.channels > self.config.exempt]
        if self.config.ratio and not chosen:
            widths = ", ".join(str(layer.channels) for layer in found) or "none"
            expected = f"a layer of more than {self.config.exempt} channels (exempt) to prune"
            raise ValueError(f"patrol: expected {expected}, got layers of {widths}")
        self._pruned = [(layer, layer.gate()) for layer in chosen]
        self._model = (model,)
        super().prepare(model, classes)

    def penalty(self, step: Step) -> Tensor | None:
        game = super().penalty(step)
        if self.config.lipschitz_weight == 0:
            return game
        smooth = self.config.lipschitz_weight * self.lipschitz(step.images[: self.config.lipschitz_images])
        return smooth if game is None else game + smooth

    def lipschitz(self, images: Tensor) -> Tensor:
        """The sum over blocks of how much each stretches a small change of the images; at full precision."""
        (model,) = self._model
        training = model.encoder.training
        model.encoder.eval()
        change = torch.empty_like(images).normal_(generator=self.generator)
        passed = torch.cat([images, images + self.config.lipschitz_noise * change])
        passed = passed.contiguous(memory_format=torch.channels_last)
        lengths = [_difference(passed)]
        for block in _blocks(model.encoder):
            for layer in block:
                passed = layer(passed)
            lengths.append(_difference(passed))
        model.encoder.train(training)
        return torch.stack([(after / before).mean() for before, after in pairwise(lengths)]).sum()

    @torch.no_grad()
    def on_epoch(self, end: EpochEnd) -> None:
        due = end.epoch + 1 == max(1, round(self.config.prune_at * end.epochs))
        for layer, gate in self._pruned:
            if due:
                gate.close(layer.channels - self._kept(layer))
            gate.importance.zero_()  # only the epoch before pruning counts: earlier losses are of other networks

    @torch.no_grad()
    def finish(self, model: SplitModel) -> None:
        for layer, gate in self._pruned:
            kept = self._kept(layer)
            if not gate.mask.is_meta:
                gate.close(layer.channels - kept)
            layer.cut(slice(kept) if gate.mask.is_meta else gate.mask.nonzero().flatten())
        self._pruned = []

    def _kept(self, layer: Prunable) -> int:
        return max(1, int(layer.channels * (1 - self.config.ratio)))

    def _deepen(self, model: SplitModel) -> None:
        place = next((each for each in chain(nn.Sequential(model.encoder)) if isinstance(each.layer, nn.Conv2d)), None)
        if place is None:
            raise ValueError("patrol: expected an encoder with a convolution, got one without")
        old, width = place.layer, self.config.extra_channels
        assert isinstance(old, nn.Conv2d)
        first = nn.Conv2d(
            width,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            stride=old.stride,  # type: ignore[arg-type]
            padding=old.padding,  # type: ignore[arg-type]
            bias=old.bias is not None,
        )
        extra = nn.Conv2d(old.in_channels, width, 3, padding=1)
        deeper = nn.Sequential(extra, nn.BatchNorm2d(width), nn.ReLU(True), first)
        xavier_uniform(deeper)
        place.put(deeper)


def _blocks(encoder: nn.Module) -> list[list[nn.Module]]:
    """The encoder's layers in blocks that begin with a convolution; what comes before the first is part of it."""
    blocks: list[list[nn.Module]] = [[]]
    begun = False
    for place in chain(nn.Sequential(encoder)):
        convolves = any(isinstance(layer, nn.Conv2d) for layer in place.layer.modules())
        if convolves and begun:
            blocks.append([])
        begun = begun or convolves
        blocks[-1].append(place.layer)
    return blocks


def _difference(both: Tensor) -> Tensor:
    """Of a batch and its changed copy ``(2N, ...)``, how far apart each pair is ``(N,)``; never 0."""
    before, after = both.chunk(2)
    return ((after - before).flatten(1).square().sum(1) + _TINY).sqrt()

"""Maximum likelihood: white-box inversion by gradient descent on the image, to match the captured feature."""

import itertools

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.reconstruction.descent import (
    DRAWS,
    DescentConfig,
    Start,
    descend,
    start_from,
    white_box,
)
from splitleak.attacker.training.fitting import rebuilding_loss, set_apart
from splitleak.measures.pixel import mse
from splitleak.seeding import generator

_FACTOR, _FURTHER = 6.0, 4  # between a weight of the distance and one beyond those given, and how many of these

_Tried = dict[tuple[float, float], tuple[float, float]]
"""By weights of smoothness and of the distance from the start, the loss and the MSE of what they gave."""


class MaximumLikelihoodConfig(DescentConfig):
    """The descent, and the weights of its priors; several are tried on public images first, and the best is kept."""

    decoder_epochs: int = Field(default=20, ge=1, description="training of that decoder, as of one alone")
    tv_weights: tuple[float, ...] = Field(default=(0.0,), min_length=1, description="of the smoothness")
    l2_weights: tuple[float, ...] = Field(
        default=(1e-4, 1e-3, 5e-3, 3e-2, 0.2), min_length=1, description="of the distance from the start"
    )
    rehearsal_images: int = Field(default=48, ge=1, description="public images that the weights are tried on")
    ssim_weight: float = Field(default=0.002, ge=0, description="weight of 1 - SSIM beside the MSE, in that choice")


class MaximumLikelihoodAttack(Attack):
    """Finds the image whose feature matches the captured one, by gradient descent through a copy of the encoder.

    He, Zhang and Lee, "Model inversion attacks against collaborative inference", ACSAC 2019: the white-box attack
    ``rMLE``, which the paper's preset is. See `descent.descend` for the loss; all captured features are rebuilt
    together, each on its own.

    The default is a stronger attack of that kind: it starts from what a decoder makes of the feature, moves along the
    principal directions of that decoder's errors (a Gaussian prior), keeps images in [0, 1] at every step, and chooses
    the weights of its priors in a rehearsal: descents on some public images, which neither the decoder nor the prior
    has seen, whose true pixels it knows; it chooses by MSE and a little SSIM, so that much of the one is not lost for
    a percent of the other, and tries further weights where the heaviest or the lightest is the best. With ``query``,
    public images cross the wire like the victims', noise included; without, decoder and rehearsal learn from what the
    edge's half tells of the wire, and know nothing of noise that it does not tell of. Values that were dropped before
    noise was added are left out, see `cleared`, and channels that drown the others in the error of the features are
    divided first, see `evened`.

    Deviations of the paper's preset: it starts from the mean of the public images, pixel by pixel, where the paper
    starts from their mean colour; the rate falls; smoothness is in units of the public images' deviation, as is the
    paper's, which normalises by the data set's. The paper's weight of smoothness depends on the cut: 0 after its first
    convolution, 10 after ReLU22 (two convolutions and a pool further; the preset), 1000 after ReLU32, more behind.
    """

    name = "maximum-likelihood"
    config_type = MaximumLikelihoodConfig
    needs = frozenset({"encoder", "public"})
    config: MaximumLikelihoodConfig

    @classmethod
    def paper_config(cls) -> MaximumLikelihoodConfig:
        """He et al. at ReLU22: 5000 iterations of Adam at 0.01 from the mean, with a weight of 10 on smoothness."""
        return MaximumLikelihoodConfig(
            start="mean",
            iterations=5000,
            learning_rate=0.01,
            adam_epsilon=1e-3,
            box=False,
            tv_weights=(10.0,),
            l2_weights=(0.0,),
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        draws = DRAWS if self.config.start == "decoder" else 1
        encoder, asked, known = white_box(self.name, known, run, draws)
        assert known.public is not None
        candidates = list(itertools.product(self.config.tv_weights, self.config.l2_weights))
        order = torch.randperm(len(known.public), generator=generator(run.seed, self.name, "rehearsal"))
        count = min(self.config.rehearsal_images, len(order) // 4) if len(candidates) > 1 else 0
        rehearsed, used = set_apart(known.public, order, count)
        start = start_from(self.config, encoder, asked[:, used], known.public[used], known, run)
        chosen, findings = candidates[0], dict[str, object]()
        if count:
            truth = known.public[rehearsed]
            chosen, findings = self._rehearse(encoder, asked[0, rehearsed], truth, start, candidates, run)
            findings["mean_image_mse"] = float((truth - known.public[used].mean(0)).square().mean())
        tv, l2 = (torch.full((len(known.captured),), weight) for weight in chosen)
        found = descend(encoder, known.captured, start, self.config, run, tv_weights=tv, l2_weights=l2, name="descent")
        self.findings = {**found.findings(), "tv_weight": chosen[0], "l2_weight": chosen[1], **findings}
        return found.images

    def _rehearse(
        self,
        encoder: nn.Module,
        features: Tensor,
        truth: Tensor,
        start: Start,
        candidates: list[tuple[float, float]],
        run: Run,
    ) -> tuple[tuple[float, float], dict[str, object]]:
        """Hyperparameter search: the weights with the least loss on the public images ``truth``, and all errors.

        Where the heaviest weight of the distance from the start is the best, as behind much noise, heavier ones are
        tried, too, and lighter ones where the lightest is, as of slight features that are sent as they are; none is
        lighter than 0.
        """

        def descended(candidates: list[tuple[float, float]], name: str) -> _Tried:
            weights = torch.tensor(candidates).repeat_interleave(len(truth), 0)
            repeated = features.repeat(len(candidates), *[1] * (features.ndim - 1))
            found = descend(
                encoder,
                repeated,
                start,
                self.config,
                run,
                tv_weights=weights[:, 0],
                l2_weights=weights[:, 1],
                name=name,
            )
            parts = [part.clamp(0, 1) for part in found.images.split(len(truth))]
            losses = [float(rebuilding_loss(part, truth, self.config.ssim_weight)) for part in parts]
            errors = [float(mse(part, truth).mean()) for part in parts]
            return dict(zip(candidates, zip(losses, errors, strict=True), strict=True))

        tried = descended(candidates, "rehearsal")
        for further in range(1, _FURTHER + 1):
            (tv, l2), weights = _best(tried), {weight for _, weight in tried}
            if len(self.config.l2_weights) == 1 or l2 == 0 or min(weights) < l2 < max(weights):
                break
            tried |= descended([(tv, l2 / _FACTOR if l2 == min(weights) else l2 * _FACTOR)], f"rehearsal {further}")
        rehearsal = [
            {"tv_weight": tv, "l2_weight": l2, "mse": error, "loss": loss} for (tv, l2), (loss, error) in tried.items()
        ]
        best = _best(tried)
        return best, {"rehearsal": rehearsal, "held_out_mse": tried[best][1]}


def _best(tried: _Tried) -> tuple[float, float]:
    """The weights with the least loss."""
    return min(tried, key=lambda weights: tried[weights][0])

"""Nearest neighbour attack: of the attacker's own images, the one whose feature is the closest."""

import torch
from torch import Tensor

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.training.fitting import gather
from splitleak.config import Config

_BATCH = 256
_CONSTANT = 1e-6  # deviation beside the mean: less is rounding
_LESS = 0.95  # of the error by plain distance, at most that by values of one deviation: more is chance


class NearestConfig(Config):
    """It has no settings."""


class NearestAttack(Attack):
    """Queries the edge with its public images, and shows for each captured feature the one with the nearest answer.

    Cover and Hart, "Nearest neighbor pattern classification", 1967. By Euclidean distance, or by that of values brought
    to a deviation of 1 where so the attacker's own images find more alike ones among the others; where answers are
    drawn anew, of their means. What it shows is a true picture, but of something else, unless the victim's is among the
    attacker's. Its use is ours: a floor that no other attack on features may miss.
    """

    name = "nearest"
    config_type = NearestConfig
    needs = frozenset({"public", "query"})

    config: NearestConfig

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        own = gather(known, self.name).float().mean(0).flatten(1).to(run.device)
        centre = own.mean(0)
        own -= centre  # distances about the mean lose no digits
        spread = own.square().mean(0).sqrt()
        even = (1 / spread).where(spread > _CONSTANT * centre.abs(), 0)
        better = _error(own * even, known.public) < _LESS * _error(own, known.public)
        weight, found = even if better else torch.ones_like(even), []
        own *= weight
        for done, batch in enumerate(known.captured.split(_BATCH), 1):
            seen = (batch.flatten(1).to(run.device) - centre) * weight
            found.append(torch.cdist(seen, own).argmin(1).cpu())
            run.report("attack", done, -(-len(known.captured) // _BATCH), {})
        self.findings = {"rows": len(own)}
        return known.public[torch.cat(found)]


def _error(features: Tensor, images: Tensor) -> float:
    """The MSE of the first images ``(M, C, H, W)`` to those with the nearest of the other features ``(M, d)``."""
    distances = torch.cdist(features[:_BATCH], features)
    nearest = distances.fill_diagonal_(torch.inf).argmin(1).cpu()
    return float((images[nearest] - images[:_BATCH]).square().mean())

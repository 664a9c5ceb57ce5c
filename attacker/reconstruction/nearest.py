"""Nearest neighbour attack: of the attacker's own images, the one whose feature is the closest."""

import torch
from torch import Tensor

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.training.fitting import gather
from splitleak.config import Config

_BATCH = 256


class NearestConfig(Config):
    """It has no settings."""


class NearestAttack(Attack):
    """Queries the edge with its public images, and shows for each captured feature the one with the nearest answer.

    Cover and Hart, "Nearest neighbor pattern classification", 1967. By Euclidean distance; where answers are drawn
    anew, of their means. What it shows is a true picture, but of something else, unless the victim's is among the
    attacker's. Its use is ours: a floor that no other attack on features may miss.
    """

    name = "nearest"
    config_type = NearestConfig
    needs = frozenset({"public", "query"})

    config: NearestConfig

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        own = gather(known, self.name).float().mean(0).flatten(1).to(run.device)
        centre, found = own.mean(0), []
        own -= centre  # distances about the mean lose no digits
        for done, batch in enumerate(known.captured.split(_BATCH), 1):
            found.append(torch.cdist(batch.flatten(1).to(run.device) - centre, own).argmin(1).cpu())
            run.report("attack", done, -(-len(known.captured) // _BATCH), {})
        self.findings = {"rows": len(own)}
        return known.public[torch.cat(found)]

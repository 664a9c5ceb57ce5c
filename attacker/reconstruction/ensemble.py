"""Ensemble: several decoders of different seeds, and the mean of their pictures."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.reconstruction.decoder import DecoderAttack, DecoderConfig
from splitleak.attacker.training.fitting import gather, replayed
from splitleak.config import Config
from splitleak.seeding import derive_seed


class EnsembleConfig(Config):
    """How many decoders, and what each is."""

    members: int = Field(default=3, ge=1)
    decoder: DecoderConfig = Field(default=DecoderConfig(), description="of each of them")
    widths: tuple[int, ...] = Field(
        default=(), description="channels of the members in turn, in place of the decoder's; none: all have the same"
    )


class EnsembleAttack(Attack):
    """Trains several decoders on the same queries, each by a seed of its own, and gives the mean of their pictures.

    Hansen and Salamon, "Neural network ensembles", IEEE Transactions on Pattern Analysis and Machine Intelligence 1990.
    The mean's squared error is the mean error of the members less the variance between them; how much that is, is in
    ``findings``: with three decoders a few per cent. Features of any shape, as `decoder`. It has no paper of its own
    among attacks.
    """

    name = "ensemble"
    config_type = EnsembleConfig
    needs = frozenset({"public", "query"})
    config: EnsembleConfig

    @classmethod
    def paper_config(cls) -> EnsembleConfig:
        """Ten of CEM's decoders."""
        return EnsembleConfig(members=10, decoder=DecoderAttack.paper_config())

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        config, answers = self.config, gather(known, self.name, self.config.decoder.draws)
        images, errors = list[Tensor](), list[object]()
        for member in range(config.members):
            given = replace(known, query=replayed(answers))
            changes = {"channels": config.widths[member % len(config.widths)]} if config.widths else {}
            attack = DecoderAttack(config.decoder.model_copy(update=changes))
            part = run.part(f"member-{member}")
            images.append(attack(given, replace(part, seed=derive_seed(run.seed, self.name, member))))
            errors.append(attack.findings["held_out_mse"])
        stacked = torch.stack(images)
        between = float(stacked.var(0, correction=0).mean())
        self.findings = {"members_held_out_mse": errors, "variance_between": between}
        return stacked.mean(0)

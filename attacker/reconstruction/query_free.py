"""Query-free attack: a shadow encoder, trained against the known head, through which the features are inverted."""

import copy

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.reconstruction.descent import DescentConfig, descend, encode_public, evened, start_from
from splitleak.attacker.training.fitting import cosine, set_rate, step
from splitleak.config import digest
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, epochs
from splitleak.training.modules import freeze


class QueryFreeConfig(DescentConfig):
    """The shadow encoder's training, and the descent through it."""

    epochs: int = Field(default=10, ge=1, description="of the shadow's training")
    shadow_batch_size: int = Field(default=64, ge=2)
    shadow_learning_rate: float = Field(default=5e-3, gt=0, description="falls along a cosine to a hundredth")
    tv_weight: float = Field(default=0.0, ge=0, description="of the smoothness")
    l2_weight: float = Field(default=0.3, ge=0, description="of the distance from the start")


class QueryFreeAttack(Attack):
    """The cloud operator's attack, without one query to the device: the head and the edge's architecture are its own.

    He, Zhang and Lee, "Model inversion attacks against collaborative inference", ACSAC 2019, the query-free attack: a
    shadow of the encoder is trained so that the frozen head classifies what it makes of public images (cross-entropy),
    then captured features are inverted through it as through the true encoder (see `descent.descend`). Nothing says
    that the shadow's features are the true one's, only that the head understands both; so it is the weakest attack
    here, and a good score against it says little. Channels that drown the others in the error of the features are
    divided first, see `evened`.

    Deviations of the paper's preset: those of `maximum-likelihood`; the learning rate falls along a cosine, where the
    paper halves it every 20 epochs.
    """

    name = "query-free"
    config_type = QueryFreeConfig
    needs = frozenset({"head", "public", "labels", "fresh_encoder"})
    config: QueryFreeConfig

    @classmethod
    def paper_config(cls) -> QueryFreeConfig:
        """He et al.: 50 epochs of batch 32, then 500 iterations of Adam at 0.1 with a weight of 2 on smoothness."""
        return QueryFreeConfig(
            start="mean",
            iterations=500,
            learning_rate=0.1,
            adam_epsilon=1e-3,
            box=False,
            epochs=50,
            shadow_batch_size=32,
            shadow_learning_rate=1e-3,
            tv_weight=2.0,
            l2_weight=0.0,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        self.network, findings = self._train_shadow(known, run)
        answers = encode_public(self.name, self.network, known, run.device)
        encoder, answers, known = evened(self.network, answers, known, run.device)
        assert known.public is not None
        start = start_from(self.config, encoder, answers, known.public, known, run)
        tv, l2 = (torch.full((len(known.captured),), each) for each in (self.config.tv_weight, self.config.l2_weight))
        found = descend(encoder, known.captured, start, self.config, run, tv_weights=tv, l2_weights=l2, name="descent")
        self.findings = {**findings, **found.findings()}
        return found.images

    def _train_shadow(self, known: Knowledge, run: Run) -> tuple[nn.Module, dict[str, object]]:
        assert known.public is not None
        assert known.labels is not None
        assert known.head is not None
        assert known.fresh_encoder is not None
        config = self.config
        with seeded(run.seed, self.name, "init"):
            shadow = known.fresh_encoder().to(run.device)
        head = freeze(copy.deepcopy(known.head), run.device)
        optimizer = Adam(shadow.parameters(), lr=config.shadow_learning_rate, eps=1e-3, amsgrad=True)
        order = generator(run.seed, self.name, "order")
        images, labels = known.public.to(run.device), known.labels.to(run.device)
        sums = [float(each.double().sum()) for each in (images, *head.state_dict().values())]
        state = Resumable(
            identity=digest([config.document(), run.seed, sums, labels.tolist()]),
            modules={"shadow": shadow},
            optimizers={"adam": optimizer},
            generators={"order": order},
        )
        for epoch in epochs("shadow", config.epochs, state, run.part("shadow").checkpoint, run.report):
            shadow.train()
            shuffled = torch.randperm(len(images), generator=order)
            batches = [batch for batch in shuffled.split(config.shadow_batch_size) if len(batch) > 1]
            losses, right = [], 0
            for index, batch in enumerate(state.steps(batches, len(batches))):
                set_rate(
                    optimizer, config.shadow_learning_rate * cosine((epoch + index / len(batches)) / config.epochs)
                )
                logits = head(shadow(images[batch]))
                right += int((logits.argmax(1) == labels[batch]).sum())
                losses.append(step(optimizer, functional.cross_entropy(logits, labels[batch])))
            accuracy = right / sum(map(len, batches))
            state.history.append({"loss": float(torch.stack(losses).mean()), "accuracy": accuracy})
        return freeze(shadow, run.device), {"shadow": state.history}

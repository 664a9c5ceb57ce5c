"""Training class inference: an inverter of top-1 scores, applied to the one-hot vector of each class."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge, check_width
from splitleak.attacker.reconstruction.prediction import InverterConfig, PredictionInversionAttack, train_inverter
from splitleak.attacker.training.fitting import predict
from splitleak.measures.scores import truncate
from splitleak.models.inverter import Rescaling


class ClassInferenceConfig(InverterConfig):
    """The inverter and its training, as those of `PredictionInversionAttack`, but with the published c.

    A learned c spreads the confidences that were seen, and certainty may lie far outside of them; with c fixed, a
    service that flattens its scores changes nothing, and the held-out error was lower on faces at any temperature.
    """

    rescale: Rescaling | Literal["best"] = Field(
        default="fixed", description="how scores are fed to it, see `Rescaling`"
    )


class ClassInference(ClassInversion):
    """Queries the service with public images, trains an inverter on each answer's top-1 score, and feeds it one-hots.

    Yang et al., "Neural network inversion in adversarial setting via background knowledge alignment", CCS 2019
    (arXiv:1902.08552), training class inference. Of an answer the highest score is kept and nothing else; vectors are
    as long as there are different classes at the top of the answers, the only ones the attacker hears of. Pictures
    ``(K, 1, C, H, W)``, one for each of the service's classes: a class that was never at the top, of which nothing can
    be learnt, gets the mean of the public images (see the findings ``classes_unseen``).

    Deviations: those of `PredictionInversionAttack`.
    """

    name = "class-inference"
    config_type = ClassInferenceConfig
    access = "label"
    needs = frozenset({"public", "query"})
    config: ClassInferenceConfig

    @classmethod
    def paper_config(cls) -> ClassInferenceConfig:
        """The published code's, see `PredictionInversionAttack.paper_config`."""
        published = PredictionInversionAttack.paper_config()
        return ClassInferenceConfig(**{key: getattr(published, key) for key in ClassInferenceConfig.model_fields})

    def invert(self, known: ClassKnowledge, run: Run) -> Tensor:
        assert known.public is not None
        assert known.query is not None
        query, images = known.query, known.public
        chosen = query.affordable(len(images), run.seed)
        images = images if chosen is None else images[chosen]
        answers = torch.stack([query(images) for _ in range(query.draws)])
        if answers.ndim != 3 or answers.shape[1] != len(images):
            expected = f"({len(images)}, K)"
            raise ValueError(f"attack {self.name!r}: expected scores {expected}, got {tuple(answers.shape[1:])}")
        check_width(self.name, known, answers.shape[2])
        tops = truncate(answers.flatten(0, 1), 1)
        seen = (tops > 0).any(0)
        if not bool(seen.any()):
            raise ValueError(f"attack {self.name!r}: expected answers with a score above zero, got none")
        pairs = tops[:, seen].unflatten(0, answers.shape[:2])
        self.network, findings = train_inverter(self.name, self.config, pairs, images, run)
        pictures = known.public.mean(0).repeat(len(seen), 1, 1, 1)
        pictures[seen] = predict(self.network, torch.eye(pairs.shape[2]), run.device)
        self.findings = {
            **findings,
            "classes_seen": int(seen.sum()),
            "classes_unseen": (~seen).nonzero().flatten().tolist(),
            "unseen_picture": "mean of the public images",
            "confidence": float(tops.amax(1).mean()),
        }
        return pictures[:, None]

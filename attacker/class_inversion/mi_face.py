"""MI-Face: white-box gradient descent on the pixels, to maximise the model's confidence in the class."""

import copy
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Adam

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge, check_gradients, check_width
from splitleak.config import Config, digest
from splitleak.training.fit import Resumable, step_ranges
from splitleak.training.modules import freeze


class MIFaceConfig(Config):
    """The descent. The defaults are the strongest that we know, by the target's own confidence."""

    loss: Literal["probability", "cross-entropy"] = Field(
        default="cross-entropy", description="the cost: 1 - p, or -log p, which has a slope where p is near 0"
    )
    optimizer: Literal["gradient-descent", "adam"] = "adam"
    learning_rate: float = Field(default=0.05, gt=0, description="lambda of the paper")
    steps: int = Field(default=300, ge=1, description="at most; alpha of the paper")
    patience: int = Field(default=100, ge=1, description="steps without a lower cost; beta of the paper")
    confidence: float = Field(default=1.0, gt=0, le=1, description="of the class, that is enough; gamma of the paper")


class MIFace(ClassInversion):
    r"""Starts every class from a black image and follows the gradient of the model's confidence in the class.

    .. math:: x_{i+1} = \mathrm{clamp}(x_i - \lambda \nabla c(x_i)), \qquad x_0 = 0, \quad c(x) = 1 - f_y(x)

    Fredrikson, Jha and Ristenpart, "Model inversion attacks that exploit confidence information and basic
    countermeasures", CCS 2015, algorithm 1, without an auxiliary term, as it has none for faces. A class stops after
    ``steps``, when its cost is no lower than the highest of the last ``patience``, or at the ``confidence``; its answer
    is the image of the least cost on the way. Images ``(K, 1, C, H, W)`` in [0, 1]; logits ``(K, K)``.

    Deviations of the paper's preset: images stay in [0, 1]; costs are compared in float64. It stalls on convolutional
    networks, whose :math:`p_y` and slope :math:`p_y (1 - p_y)` at a black image are near 0, so the defaults descend on
    the cross-entropy with Adam. What they reach is an image that the model is sure of, and nobody else.
    """

    name = "mi-face"
    config_type = MIFaceConfig
    access = "white"
    needs = frozenset({"model"})
    config: MIFaceConfig

    @classmethod
    def paper_config(cls) -> MIFaceConfig:
        """Fredrikson et al.'s: 1 - p, gradient descent at 0.1, at most 5000 steps, patience 100, confidence 0.99."""
        return MIFaceConfig(
            loss="probability", optimizer="gradient-descent", learning_rate=0.1, steps=5000, confidence=0.99
        )

    def invert(self, known: ClassKnowledge, run: Run) -> Tensor:
        assert known.model is not None
        config, model = self.config, freeze(copy.deepcopy(known.model), run.device)
        with torch.no_grad():
            black = model(torch.zeros(1, *known.image_shape, device=run.device))
        check_width(self.name, known, black.shape[1])
        check_gradients(self.name, model, known.image_shape, run.device)
        search = _Search(model, black.shape[1], known.image_shape, config, run.device)
        state = Resumable(
            identity=digest([config.document(), black.double().cpu().tolist()]),
            modules={"search": search},
            optimizers={"steps": search.optimizer},
            generators={},
        )
        for iterations in step_ranges("attack", config.steps, state, run.checkpoint, run.report):
            for _ in iterations:
                search.step()
            state.history.append({"cost": float(search.best_cost.mean())})
        search.note()
        confidences = search.best_confidence.tolist()
        self.findings = {
            "history": state.history,
            "confidences": confidences,
            "confidence": sum(confidences) / len(confidences),
            "steps": search.taken.tolist(),
        }
        return search.best_images[:, None]


class _Search(nn.Module):
    """The state of all classes' descents: the current image of each, and the best so far."""

    images: nn.Parameter  # (K, C, H, W), where each is now
    best_images: Tensor  # (K, C, H, W)
    best_cost: Tensor  # (K,) float64
    best_confidence: Tensor  # (K,) float64, where the cost was best
    recent: Tensor  # (patience, K) float64, the last costs, infinite before the first
    taken: Tensor  # (K,) int64, steps
    going: Tensor  # (K,) bool

    def __init__(
        self, model: nn.Module, classes: int, shape: tuple[int, int, int], config: MIFaceConfig, device: torch.device
    ) -> None:
        super().__init__()
        self._model, self._config = (model,), config  # in a tuple: the model is no part of this state
        self.images = nn.Parameter(torch.zeros(classes, *shape))
        self.register_buffer("best_images", torch.zeros(classes, *shape))
        self.register_buffer("best_cost", torch.full((classes,), torch.inf, dtype=torch.float64))
        self.register_buffer("best_confidence", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("recent", torch.full((config.patience, classes), torch.inf, dtype=torch.float64))
        self.register_buffer("taken", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("going", torch.ones(classes, dtype=torch.bool))
        self.to(device)
        kind = Adam if config.optimizer == "adam" else SGD
        self.optimizer = kind([self.images], lr=config.learning_rate)

    def step(self) -> None:
        """Looks at each class that is still going, and moves those that do not stop there."""
        gradient = self.note()
        if gradient is not None:
            self.images.grad = gradient
            self.optimizer.step()
            with torch.no_grad():
                self.images.clamp_(0, 1)
            self.taken[self.going] += 1

    def note(self) -> Tensor | None:
        """Keeps what is better than before, stops who is done, and gives the gradient of the others, None if none."""
        rows = self.going.nonzero().flatten()
        if not len(rows):
            return None
        images = self.images.detach()[rows].requires_grad_()
        logs = self._model[0](images).double().log_softmax(1)[torch.arange(len(rows)), rows]
        cost = -logs if self._config.loss == "cross-entropy" else -logs.expm1()
        (gradient,) = torch.autograd.grad(cost.sum(), images)
        cost, confidence = cost.detach(), logs.detach().exp()
        better = cost < self.best_cost[rows]
        self.best_images[rows[better]] = images.detach()[better]
        self.best_cost[rows[better]] = cost[better]
        self.best_confidence[rows[better]] = confidence[better]
        stalled = cost >= self.recent[:, rows].max(0).values
        self.recent[self.taken[rows] % self._config.patience, rows] = cost
        done = stalled | (confidence >= self._config.confidence)
        self.going[rows[done]] = False
        moves = torch.zeros_like(self.images)
        moves[rows[~done]] = gradient[~done]
        return moves

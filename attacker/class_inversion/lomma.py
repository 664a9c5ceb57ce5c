"""LOMMA: a regularised logit loss over the model and distilled students, on top of GMI and of KED-MI."""

from collections.abc import Mapping
from itertools import compress
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.features import MatchedFeatures
from splitleak.attacker.class_inversion.gmi import GMI, GMIConfig
from splitleak.attacker.class_inversion.ked import KEDMI, KEDConfig
from splitleak.attacker.class_inversion.search import Drawing, Identity, LatentSearch, Search, answers_to
from splitleak.attacker.training.critic import Critic
from splitleak.attacker.training.fitting import set_apart, step
from splitleak.config import Config, digest
from splitleak.defenses.classes.adaptive import feature_extractor
from splitleak.defenses.features.layers import last_layer
from splitleak.measures.identity import IDENTITY_LOSSES
from splitleak.models.split import ModelConfig, build
from splitleak.seeding import generator, seeded
from splitleak.training.fit import Resumable, epochs
from splitleak.training.modules import freeze

AGREES = 0.85
"""Share of public images that a student labels as its teacher: with less it pulls a search elsewhere."""

_BATCH = 64
_PAPER = {"students": 3, "student_epochs": 20, "student_steps": 0, "agreement": 0}


class LommaConfig(Config):
    """What LOMMA adds to another attack: students, and a pull to likely features; both for a loss of the logits alone.

    To match features (``identity.loss``), none is taught, and nothing pulls: the mean of a class is where it is to go,
    and that of all images is not. With both, on twenty people, 5 % were recognised where 51 % are without.

    Two students, not the published three, and the steps of the attack below, are for the CPU.
    """

    identity: Identity = "logit"
    regulariser: float = Field(
        default=1, ge=0, description="weight of the distance from the mean public feature, for a loss of the logits"
    )
    students: int = Field(
        default=2, ge=0, description="networks taught by the model on public images; 0: the model alone"
    )
    student_epochs: int = Field(default=5, ge=1)
    student_steps: int = Field(
        default=600, ge=0, description="at least so many steps: more epochs where there are few public images"
    )
    student_rate: float = Field(default=3e-3, gt=0, description="of Adam")
    agreement: float = Field(
        default=AGREES,
        ge=0,
        le=1,
        description="share of a tenth of the public images, not shown to a student, that it has to label as the model "
        "does, or it has no say; 0: all have one, and are shown all",
    )

    def _used(self, document: Mapping[str, Any]) -> dict[str, Any]:
        used = super()._used(document)
        return used if self.students else {key: value for key, value in used.items() if key != "agreement"}


class LommaGMIConfig(LommaConfig, GMIConfig):
    """GMI's settings, and LOMMA's."""


class LommaKEDConfig(LommaConfig, KEDConfig):
    """KED-MI's settings, and LOMMA's."""


class Lomma(LatentSearch):
    r"""Replaces the identity loss of another attack.

    .. math:: \frac1M \sum_{i=1}^M -f^{(i)}_y(x) + \lambda \|h(x) - \bar h\|_2^2

    Nguyen et al., "Re-thinking model inversion attacks against deep neural networks", CVPR 2023: h is the input of the
    target's last layer, a low-rank head being one, h-bar its mean on public images (the published code's; the paper
    draws around it), and the f are the target and students that learnt its answers on public images. The logit loss
    pulls as hard where the model is sure already. A student that disagrees with its teacher pulls elsewhere: where the
    public images are of other people than the classes, two took 24 points of 89, and where they are of the same classes
    they gave 21 to 76 (one seed each). Those that disagree on public images that they have not seen therefore have no
    say (findings: ``student_agreement`` of those that have one, ``students_left_out``). Deviations: that; the squared
    norm is a mean over the features; students are two small networks, not three EfficientNets.
    """

    needs = frozenset({"model", "public", "prior"})
    students: list[nn.Module]
    body: nn.Module  # the target up to its last layer
    layer: nn.Module  # the target's last
    mean: Tensor  # of what that is given for public images

    def networks(self, known: ClassKnowledge, run: Run, model: nn.Module | None) -> tuple[Drawing, Critic | None]:
        """Those of the attack below, after the students are taught."""
        assert known.public is not None
        assert model is not None
        config = self.config
        assert isinstance(config, LommaConfig)
        self.students = []
        if isinstance(config.identity, MatchedFeatures):
            return super().networks(known, run, model)
        if config.students:
            self.students = self._agreeing(model, known.public, config, run)
        self.body, self.layer = feature_extractor(model), last_layer(model).layer
        self.mean = answers_to(self.body, known.public, run.device).mean(0)
        return super().networks(known, run, model)

    def _agreeing(self, model: nn.Module, public: Tensor, config: LommaConfig, run: Run) -> list[nn.Module]:
        """The students that agree with the model on images of ``public`` that they have not seen."""
        order = torch.randperm(len(public), generator=generator(run.seed, "lomma", "held-out"))
        kept_back = max(1, len(public) // 10) if config.agreement else 0
        apart, others = set_apart(public, order, kept_back)
        unseen, shown = public[apart] if kept_back else public, public[others.sort().values]
        students = [teach(model, shown, config, run, turn) for turn in range(config.students)]
        labels = answers_to(model, unseen, run.device).argmax(1)
        same = [answers_to(each, unseen, run.device).argmax(1) == labels for each in students]
        agreed = [round(float(each.float().mean()), 6) for each in same]
        heard = [share >= config.agreement for share in agreed]
        if any(heard):
            self.findings["student_agreement"] = list(compress(agreed, heard))
        if not all(heard):
            self.findings["students_left_out"] = [share for share in agreed if share < config.agreement]
        return list(compress(students, heard))

    def identity(self, search: Search, images: Tensor, labels: Tensor) -> Tensor:
        config = self.config
        assert isinstance(config, LommaConfig)
        if isinstance(config.identity, MatchedFeatures):
            return super().identity(search, images, labels)
        features = self.body(images)
        search.evaluations += len(images)
        logits = [self.layer(features), *(student(images) for student in self.students)]
        search.log_confidence(logits[0], labels)
        losses = torch.stack([IDENTITY_LOSSES[config.identity](each, labels) for each in logits]).mean(0)
        unlikely: Tensor = (features - self.mean).square().mean(1)
        return losses + config.regulariser * unlikely


class LommaGMI(Lomma, GMI):
    __doc__ = f"GMI with the identity loss of LOMMA. {Lomma.__doc__}"

    name = "lomma-gmi"
    config_type = LommaGMIConfig

    @classmethod
    def paper_config(cls) -> LommaGMIConfig:
        """2400 steps at 0.02 with Nesterov's momentum, three students taught for 20 epochs."""
        below = GMI.paper_config().document() | {"identity": "logit", "steps": 2400}
        return LommaGMIConfig.parse({**below, **_PAPER}, source="paper")


class LommaKED(Lomma, KEDMI):
    __doc__ = f"KED-MI with the identity loss of LOMMA. {Lomma.__doc__}"

    name = "lomma-ked"
    config_type = LommaKEDConfig
    needs = KEDMI.needs

    @classmethod
    def paper_config(cls) -> LommaKEDConfig:
        """KED-MI's, with three students taught for 20 epochs."""
        below = KEDMI.paper_config().document() | {"identity": "logit"}
        return LommaKEDConfig.parse({**below, **_PAPER}, source="paper")


def teach(model: nn.Module, public: Tensor, config: LommaConfig, run: Run, turn: int) -> nn.Module:
    """Knowledge distillation: a small network trained on the model's soft labels, frozen.

    Args:
        model: The teacher, images to logits ``(N, K)``.
        public: The images ``(M, C, H, W)``.
        config: Epochs, the least number of steps, and learning rate.
        run: Seed, device, report and checkpoint.
        turn: The student's number, which tells random streams and checkpoints apart.

    Raises:
        ValueError: The images are too small for it.
    """
    name, answers = f"student-{turn}", answers_to(model, public, run.device).softmax(1)
    sizes = {"channels": public.shape[1], "size": min(public.shape[2:]), "classes": answers.shape[1]}
    with seeded(run.seed, "lomma", name):
        student = build(ModelConfig.parse({"architecture": "cnn", **sizes}, source="student")).to(run.device)
    order, optimizer = generator(run.seed, "lomma", name), Adam(student.parameters(), lr=config.student_rate)
    state = Resumable(
        identity=digest([config.document(), run.seed, name, float(answers.double().square().sum())]),
        modules={"student": student},
        optimizers={"adam": optimizer},
        generators={"order": order},
    )
    least = -(-config.student_steps // max(1, -(-len(public) // _BATCH)))
    for _ in epochs(name, max(config.student_epochs, least), state, run.part(name).checkpoint, run.report):
        student.train()
        batches = torch.randperm(len(public), generator=order).split(_BATCH)
        losses = [
            step(
                optimizer,
                functional.cross_entropy(student(public[batch].to(run.device)), answers[batch.to(run.device)]),
            )
            for batch in state.steps(batches, len(batches))
            if len(batch) > 1
        ]
        state.history.append({"loss": float(torch.stack(losses).mean()) if losses else 0.0})
    return freeze(student, run.device)

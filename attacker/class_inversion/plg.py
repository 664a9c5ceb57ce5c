"""PLG-MI: a conditional generator, trained on public images pseudo-labelled by the model."""

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.features import top_public_images
from splitleak.attacker.class_inversion.search import Identity, LatentSearch, Search, SearchConfig, answers_to
from splitleak.attacker.training.adversarial import GanTraining, MixedGame, networks, play
from splitleak.attacker.training.augmentation import CropsConfig, random_crops
from splitleak.attacker.training.critic import Critic, hinge
from splitleak.config import digest
from splitleak.measures.identity import max_margin
from splitleak.models.generator import Generator
from splitleak.seeding import generator


class PLGConfig(SearchConfig):
    """The generator's training, then the search.

    For the CPU: a sixtieth of the published iterations, with as many steps of the critic, and a sixth of the steps.
    """

    identity: Identity = "max-margin"
    gan: GanTraining = GanTraining(iterations=500, critic_steps=5, beta1=0)
    each: int = Field(default=30, ge=1, description="public images that stand for a class, n of the paper")
    margin_weight: float = Field(
        default=0.2, ge=0, description="of the model's say in the training, alpha of the paper"
    )
    views: CropsConfig = Field(
        default=CropsConfig(count=2, least=0.8, rotation=5, jitter=0.2), description="of what the model is shown"
    )
    learning_rate: float = Field(default=0.1, gt=0)
    steps: int = Field(default=100, ge=0)


class PLGMI(LatentSearch):
    r"""Labels public images by the model's confidence, trains a conditional generator on them, and searches within.

    .. math:: \min_G\; -D(G(z, y), y) + \alpha \big(\max_{j \ne y} f_j(x) - f_y(x)\big), \quad x = T(G(z, y))

    Yuan et al., "Pseudo label-guided model inversion attack via conditional generative adversarial network", AAAI
    2023: the ``each`` public images that the model is surest of stand for a class, be they of it or not; hinge losses,
    a projection critic; the same max-margin loss then moves the latents, over random views. Images
    ``(K, restarts, C, H, W)``, best first. Deviations: a small DCGAN that is told the class beside the latent, in place
    of a residual one with conditional normalisation; of the published views (crops, turns, brightness and contrast) the
    mirrors are off by default; `mixed_precision`.
    """

    name = "plg-mi"
    config_type = PLGConfig
    needs = frozenset({"model", "public"})
    config: PLGConfig

    @classmethod
    def paper_config(cls) -> PLGConfig:
        """600 steps of Adam at 0.1 from five latents; 30,000 iterations, five of the critic to one, at 2e-4."""
        gan = GanTraining(
            latent=128,
            width=64,
            iterations=30_000,
            critic_steps=5,
            learning_rate=2e-4,
            critic_learning_rate=2e-4,
            beta1=0,
            beta2=0.9,
            average=0,
        )
        views = CropsConfig(count=2, least=0.8, rotation=5, jitter=0.2, mirror=True)
        return PLGConfig(gan=gan, steps=600, views=views)

    def networks(self, known: ClassKnowledge, run: Run, model: nn.Module | None) -> tuple[Generator, Critic | None]:
        assert known.public is not None
        assert model is not None
        scores = answers_to(model, known.public, run.device).softmax(1)
        rows = top_public_images(scores, self.config.each)
        labels = torch.arange(len(rows), device=run.device).repeat_interleave(rows.shape[1])
        shape = self.config.gan.generator(known.image_shape, len(rows))
        game = _Game(
            known.public.to(run.device)[rows.flatten()],
            labels,
            model,
            self.config,
            run,
            networks(self.name, shape, run, "spectral"),
        )
        told = [float(scores.double().square().sum()), self.config.margin_weight, self.config.views.document()]
        identity = digest([*told, rows.flatten().tolist()])
        self.findings["gan_history"] = play(game, len(labels), self.config.gan, run, identity=identity)
        self.kept = {f"generator.{name}": value for name, value in game.generator.state_dict().items()}
        return game.generator, game.critic

    def loss(self, search: Search, values: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        images, views = search.images(values, labels), self.config.views
        seen = [random_crops(images, views, draw) for _ in range(views.count)]
        return torch.stack([self.identity(search, view, labels) for view in seen]).mean(0)


class _Game(MixedGame):
    """Real images are those that stand for a class, told which."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        model: nn.Module,
        config: PLGConfig,
        run: Run,
        sides: tuple[Generator, Critic],
    ) -> None:
        super().__init__("plg-mi", *sides)
        self.images, self.labels, self.model, self.config = images, labels, model, config
        self.streams["views"] = generator(run.seed, self.name, "training views")

    def critic_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        both = self.judge(torch.cat([self.images[rows], fakes]), torch.cat([self.labels[rows], labels]))
        return hinge(*both.chunk(2))

    def generator_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        view = random_crops(fakes, self.config.views, self.streams["views"])
        margin = max_margin(self.model(view), labels).mean()
        loss: Tensor = self.config.margin_weight * margin - self.judge(fakes, labels).mean()
        return loss

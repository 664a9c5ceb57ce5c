"""KED-MI: a critic distilled from the model's answers, and a distribution of latents for each class."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.search import Drawing, LatentSearch, Search, SearchConfig, answers_to
from splitleak.attacker.training.adversarial import GanTraining, MixedGame, networks, play
from splitleak.attacker.training.critic import Critic
from splitleak.config import digest
from splitleak.models.generator import Generator
from splitleak.training.precision import mixed_precision


class KEDConfig(SearchConfig):
    """The generator's training, then the recovery. ``restarts`` images are drawn of each class's distribution.

    The training is for the CPU: an eleventh of the published iterations, with one step of the critic, not five.
    """

    gan: GanTraining = GanTraining(iterations=1000)
    entropy_weight: float = Field(default=1e-4, ge=0, description="of the critic's answers on drawn images")
    identity_weight: float = Field(default=100, ge=0, description="lambda of the paper")
    prior_weight: float = Field(default=1, ge=0, description="weight of the critic's doubt that an image is real")
    log_variance: float = Field(default=1.0, description="at which every value of a latent starts")
    steps: int = Field(default=1000, ge=0, description="a way as long as the published 2400 steps at 0.02")


class KEDMI(LatentSearch):
    r"""Trains a generator on public images with the model's answers as labels, then recovers a Gaussian a class.

    .. math:: \min_{\mu, \sigma}\; E_\varepsilon\big[\mathrm{softplus}(L) - L + \lambda\, L_{id}(f(x), y)\big],
        \quad x = G(\mu + \sigma \varepsilon), \; L = \log \sum_k e^{D_k(x)}

    Chen et al., "Knowledge-enriched distributional model inversion attacks", ICCV 2021, and its published code: the
    critic has one output a class, learns the model's soft labels of real images, and calls an image real by the sum of
    them; the generator matches its mean features and lowers the entropy of its answers. Images
    ``(K, restarts, C, H, W)``, samples of each class's Gaussian, best first. Deviations: no minibatch discrimination;
    the critic is spectrally normalised, which bounds how sure of a class it can be; a running mean of the generator's
    weights is kept; `mixed_precision`.
    """

    name = "ked-mi"
    config_type = KEDConfig
    needs = frozenset({"model", "public"})
    unused = frozenset({"candidates"})
    config: KEDConfig

    @classmethod
    def paper_config(cls) -> KEDConfig:
        """2400 steps of Adam at 0.02, five images a class; 100 latents, full width, five of the critic to one, at 2e-4.

        Its 120 epochs are 11,000 steps of the generator, of 30,000 public images.
        """
        gan = GanTraining(
            latent=100,
            width=64,
            kernel=5,
            iterations=11_000,
            critic_steps=5,
            learning_rate=2e-4,
            critic_learning_rate=2e-4,
            average=0,
        )
        return KEDConfig(gan=gan, steps=2400, learning_rate=0.02)

    def networks(self, known: ClassKnowledge, run: Run, model: nn.Module | None) -> tuple[Drawing, Critic | None]:
        assert known.public is not None
        assert model is not None
        answers = answers_to(model, known.public, run.device).softmax(1)
        shape = self.config.gan.generator(known.image_shape)
        game = _Game(
            known.public.to(run.device),
            answers,
            self.config,
            *networks(self.name, shape, run, "spectral", answers.shape[1]),
        )
        told = [self.config.entropy_weight, float(answers.double().square().sum()), float(known.public.double().sum())]
        self.findings["gan_history"] = play(game, len(known.public), self.config.gan, run, identity=digest(told))
        self.kept = {f"generator.{name}": value for name, value in game.generator.state_dict().items()}
        return game.generator, game.critic

    def sample(self, search: Search) -> Tensor:
        """Each class's mean and log-variances ``(K, 1, 2 d)``."""
        wide = search.generator.config.latent
        spread = torch.full((search.classes, 1, wide), self.config.log_variance)
        return torch.cat([torch.zeros_like(spread), spread], 2).to(search.run.device)

    def optimise(self, search: Search, starts: Tensor) -> Tensor:
        found = super().optimise(search, starts).expand(-1, self.config.restarts, -1)
        samples: Tensor = self.drawn(found.flatten(0, 1), search.draw("samples")).unflatten(0, found.shape[:2])
        return samples

    def drawn(self, values: Tensor, draw: torch.Generator) -> Tensor:
        """A latent ``(B, d)`` of each Gaussian ``(B, 2 d)``."""
        mean, log_variance = values.chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=draw).to(mean.device)
        return mean + (log_variance / 2).exp() * noise

    def loss(self, search: Search, values: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        assert search.critic is not None
        images = search.images(self.drawn(values, draw))
        doubt = unreal(search.critic(images))
        return self.config.prior_weight * doubt + self.config.identity_weight * self.identity(search, images, labels)


def unreal(logits: Tensor) -> Tensor:
    """Minus the logarithm of the critic's belief ``(B,)`` that what it gives logits ``(B, K)`` for is real.

    >>> unreal(torch.zeros(1, 2))
    tensor([0.4055])
    """
    total = logits.logsumexp(1)
    return functional.softplus(total) - total


class _Game(MixedGame):
    def __init__(
        self, images: Tensor, answers: Tensor, config: KEDConfig, generator: Generator, critic: Critic
    ) -> None:
        super().__init__("ked-mi", generator, critic)
        self.images, self.answers, self.config = images, answers, config

    def critic_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        real, fake = self.judge(torch.cat([self.images[rows], fakes])).chunk(2)
        learnt = functional.cross_entropy(real, self.answers[rows])
        return learnt + (unreal(real) + functional.softplus(fake.logsumexp(1))).mean() / 2

    def generator_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        with mixed_precision(fakes.device, on_cpu=True):
            real, fake = self.critic.features(self.images[rows]), self.critic.features(fakes)
            logits = self.critic.judge(fake)
        apart = real.float().flatten(1).mean(0) - fake.float().flatten(1).mean(0)
        logs = logits.float().log_softmax(1)
        loss: Tensor = apart.abs().mean() - self.config.entropy_weight * (logs.exp() * logs).sum()
        return loss

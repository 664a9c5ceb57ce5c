"""The image prior: a GAN's generator trained on the attacker's public images, and the folder it is kept in.

<prior>/prior.json               how it was made: config, seed, the public images by hash, losses, commit, hardware
<prior>/generator.safetensors    the generator's weights
<prior>/critic.safetensors       the critic's; a generator of one's own may come without
<prior>/generator.onnx           instead of generator.safetensors, a generator of any architecture, of one's own
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import (
    assign_weights,
    load_weights,
    provenance,
    save_weights,
    tensors_metadata,
    write_json,
    written_folder,
)
from splitleak.attacker.base import Run
from splitleak.attacker.training.adversarial import Game, GanTraining, networks, play
from splitleak.attacker.training.augmentation import DifferentiableConfig, augmented
from splitleak.attacker.training.critic import Critic, Norm, gradient_penalty, hinge
from splitleak.config import Config, digest, read_document
from splitleak.datasets.images import Images
from splitleak.datasets.plain import unlabelled
from splitleak.errors import explained
from splitleak.models.generator import Generator, GeneratorConfig
from splitleak.models.imported import ImportedGenerator
from splitleak.outputs import FolderKind, claimed
from splitleak.seeding import generator
from splitleak.training.modules import freeze, to_channels_last

FORMAT: Literal[1] = 1
PRIOR = FolderKind(
    ("prior", "import-prior"),
    "prior.json",
    ("generator.safetensors", "generator.onnx", "critic.safetensors", "denoiser.safetensors"),
)

M = TypeVar("M", bound=torch.nn.Module)
C = TypeVar("C", bound=Config)
P = TypeVar("P", bound="Kept")

_LOGGER = logging.getLogger(__name__)


class PriorConfig(GanTraining):
    """The training of the prior's GAN."""

    later: ClassVar[Mapping[str, object]] = {"augment": None}

    loss: Literal["hinge", "wasserstein"] = Field(
        default="hinge", description="hinge: spectral normalisation; wasserstein: with a gradient penalty, as GMI's"
    )
    penalty: float = Field(default=10, ge=0, description="weight of the gradient penalty")
    conditional: bool = Field(default=False, description="tell both networks the class of each public image")
    augment: DifferentiableConfig | None = Field(
        default=None, description="of what the critic sees, for a few hundred public images or less; none: nothing"
    )

    @property
    def norm(self) -> Norm:
        """The critic's normalisation."""
        return "spectral" if self.loss == "hinge" else "instance"

    @classmethod
    def paper(cls) -> "PriorConfig":
        """GMI's: WGAN-GP of 100 latents and full width, Adam at 2e-4, five steps of the critic to one.

        Zhang et al., CVPR 2020, and its published code. The code trains for 100 epochs on MNIST and 280 on CelebA;
        50,000 iterations are about 100 of 32,000 images.
        """
        return cls(
            loss="wasserstein",
            latent=100,
            width=64,
            kernel=5,
            iterations=50_000,
            critic_steps=5,
            learning_rate=2e-4,
            critic_learning_rate=2e-4,
            average=0,
        )


class PriorDocument(Config):
    """The contents of ``prior.json``; ``about`` is kept as it is."""

    format: Literal[1]
    generator: GeneratorConfig
    norm: Norm = "spectral"
    signed: bool = Field(default=False, description="whether the images of generator.onnx are in [-1, 1]")
    public_hashes: tuple[str, ...] = ()
    about: dict[str, Any] = Field(default_factory=dict)


class Kept(Protocol):
    """A prior that can be written to a folder."""

    def save(self, folder: Path) -> None:
        """Writes ``folder``, whole or not at all."""


@dataclass(frozen=True)
class Prior:
    """A frozen generator of images like the attacker's own, its critic, and the record of its training.

    A generator that came from elsewhere may have no critic, and no public image that is known by its hash.
    """

    document: PriorDocument
    generator: Generator | ImportedGenerator
    critic: Critic | None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of its images."""
        return self.document.generator.image_shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it draws by; none: it draws by none, or does not tell them."""
        told = self.document.about.get("classes", ())
        return tuple(map(str, told)) if self.document.generator.classes and isinstance(told, list | tuple) else ()

    @property
    def digest(self) -> str:
        """A fingerprint of its architecture and weights."""
        sums = [float(value.double().sum()) for value in self.generator.state_dict().values()]
        return digest([self.document.generator.document(), sums])

    def save(self, folder: Path) -> None:
        """Writes ``folder``, whole or not at all.

        Raises:
            FileExistsError: ``folder`` is there, and no prior that was trained here.
            ValueError: The generator is of an ONNX file, which is its own record, or weights are not finite.
        """
        if not isinstance(self.generator, Generator):
            raise ValueError(f"expected a generator that was trained here to write to {folder}, got an imported one")
        with written_folder(folder, PRIOR) as partial:
            public = {"public": digest(sorted(self.document.public_hashes))}
            save_weights(partial / "generator.safetensors", self.generator.state_dict(), public)
            if self.critic is not None:
                save_weights(partial / "critic.safetensors", self.critic.state_dict())
            write_json(partial / "prior.json", self.document.document())

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Prior":
        """Reads what `save` wrote, or what others wrote in its place; no code is run.

        A generator of one's own needs ``prior.json`` with ``format`` and ``generator`` (`GeneratorConfig`), and
        ``generator.safetensors`` with the names of `Generator`, or ``generator.onnx``, see `ImportedGenerator`.

        Raises:
            FileNotFoundError: ``folder`` holds no prior.
            ValueError: Its files do not fit together.
        """
        path = folder / "prior.json"
        if not path.is_file():
            raise FileNotFoundError(f"expected a prior (a folder that `splitleak prior` wrote) at {folder}")
        document = PriorDocument.parse(read_document(path), source=str(path))
        drawing: Generator | ImportedGenerator
        critic: Critic | None = None
        if (folder / "generator.onnx").is_file():
            drawing = ImportedGenerator(folder / "generator.onnx", document.generator, signed=document.signed)
        else:
            weights = folder / "generator.safetensors"
            drawing = restored(lambda: Generator(document.generator), weights)
            public, own = tensors_metadata(weights).get("public"), digest(sorted(document.public_hashes))
            if public not in (None, own):
                asked = f"the hashes of all images that it was trained on, {public}"
                raise ValueError(f"{path}: expected {asked}, got {len(document.public_hashes)} others, {own}")
        if (folder / "critic.safetensors").is_file():
            critic = restored(lambda: Critic(document.generator, document.norm), folder / "critic.safetensors")
        for network in (drawing, critic):
            if network is not None:
                to_channels_last(freeze(network, device), device)
        return cls(document, drawing, critic)


def train_prior(config: PriorConfig, public: Images, run: Run) -> Prior:
    """Trains a prior on all of ``public``; resumable, repeatable by seed.

    Raises:
        ValueError: There are no images, or the generator cannot produce their shape.
    """
    if not len(public):
        raise ValueError("expected at least one public image, got none")
    shape = public.shape
    chosen = config.generator(shape, len(public.classes) if config.conditional else None)
    game = _PriorGame(config, chosen, public, run)
    hashes = public.hashes()
    history = play(game, len(public), config, run, identity=digest([config.document(), sorted(hashes)]))
    about = {"config": config.document(), "seed": run.seed, "history": history, "provenance": provenance()}
    if config.conditional:
        about["classes"] = list(public.classes)
    document = PriorDocument(
        format=FORMAT, generator=chosen, norm=config.norm, public_hashes=tuple(hashes), about=about
    )
    return Prior(document, game.generator, game.critic)


@dataclass(frozen=True)
class PriorKind(Generic[C, P]):
    """A kind of prior: the config of its training, how it is read of a folder, and how it is trained."""

    config: type[C]
    load: Callable[[Path, torch.device], P]
    train: Callable[[C, Images, Run], P]

    def cached(self, config: C, public: Images, folder: Path, run: Run, *, force: bool = False) -> tuple[P, bool]:
        """The prior cached in ``folder``, by this config, seed and images; else, or where it is broken, one is trained.

        Args:
            config: Its training.
            public: The images it is trained on.
            folder: The cache.
            run: Seed, device, report and checkpoint.
            force: Train anew even if it is there, and replace one of other settings.

        Returns:
            The prior, and whether it was cached.

        Raises:
            BlockingIOError: Another process writes the folder.
            FileExistsError: ``folder`` is no prior that was trained here, or, without ``force``, one of other settings.
            ValueError: There are no images, or of a shape that it cannot draw.
        """
        settings = {"about": {"config": config.document(), "seed": run.seed}, "public_hashes": public.hashes()}
        with claimed(folder, PRIOR, settings, force=force):
            if not force and (folder / PRIOR.mark).is_file():
                try:
                    return self.load(folder, run.device), True
                except (FileNotFoundError, ValueError) as error:
                    _LOGGER.warning("a broken prior is trained again: %s", error)
            made = self.train(config, public, run)
            made.save(folder)
        return made, False

    @contextmanager
    def trained_here(self, config: C, images: Tensor, run: Run) -> Iterator[P]:
        """A prior of the attacker's own images ``(M, C, H, W)`` in [0, 1], for as long as the block runs.

        Where the run has a checkpoint, the prior is kept in a folder beside it until the block ends without an error:
        an attack that is taken up again trains no other.
        """
        public = unlabelled(images)
        folder = run.part(f"prior-{digest([config.document(), run.seed, public.hashes()])}").checkpoint
        if folder is None:
            yield self.train(config, public, run)
            return
        yield self.cached(config, public, folder, run)[0]
        shutil.rmtree(folder)


GAN = PriorKind(PriorConfig, Prior.load, train_prior)


class _PriorGame(Game):
    """Unconditional, or with the public images' own classes."""

    def __init__(self, config: PriorConfig, chosen: GeneratorConfig, public: Images, run: Run) -> None:
        super().__init__("prior", *networks("prior", chosen, run, config.norm))
        self.config = config
        self.images = public.floats().to(run.device)
        self.labels = public.labels.to(run.device) if config.conditional else None
        self.streams["between"] = generator(run.seed, "prior", "between")
        if config.augment is not None:
            self.streams["augment"] = generator(run.seed, "prior", "augment")

    def seen(self, images: Tensor) -> Tensor:
        """Images as the critic sees them."""
        config = self.config.augment
        return images if config is None else augmented(images, config, self.streams["augment"])

    def critic_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        images, fakes = self.seen(self.images[rows]), self.seen(fakes)
        own = None if self.labels is None else self.labels[rows]
        real, fake = self.critic(images, own), self.critic(fakes, labels)
        if self.config.loss == "hinge":
            return hinge(real, fake)
        share = torch.rand(len(images), 1, 1, 1, generator=self.streams["between"]).to(images)
        penalty = gradient_penalty(partial(self.critic, labels=own), share * images + (1 - share) * fakes)
        loss: Tensor = fake.mean() - real.mean() + self.config.penalty * penalty
        return loss

    def generator_loss(self, rows: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        loss: Tensor = -self.critic(self.seen(fakes), labels).mean()
        return loss


def restored(build: Callable[[], M], path: Path) -> M:
    """The network that ``build`` makes, with the weights in the file ``path``."""
    with (
        explained(path.parent / PRIOR.mark, "the sizes of a network"),
        torch.device("meta"),  # no memory for what it says before the weights are known to be so
    ):
        network = build()
    expected = f"{path}: expected the weights of a {type(network).__name__}"
    assign_weights(network, load_weights(path), expected, assign=True)
    return network

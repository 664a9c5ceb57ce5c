"""The diffusion prior: a denoiser trained on the attacker's public images, and the folder that it is kept in.

<prior>/prior.json               its kind, how it was made: config, seed, the public images by hash, losses, commit
<prior>/denoiser.safetensors     the denoiser's weights
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from splitleak.artifacts import provenance, save_weights, write_json, written_folder
from splitleak.attacker.base import Run
from splitleak.attacker.prior import FORMAT, PRIOR, Prior, PriorKind, restored
from splitleak.attacker.training.denoiser import Denoiser, DenoiserConfig, DenoiserTraining, train_denoiser
from splitleak.config import Config, digest, read_document
from splitleak.datasets.images import Images
from splitleak.training.modules import freeze, to_channels_last


class DiffusionConfig(DenoiserTraining):
    """The training of the prior's denoiser."""

    @classmethod
    def paper(cls) -> "DiffusionConfig":
        """DDPM's on CIFAR-10: 128 channels, 800,000 iterations of batch 128 at 2e-4, averaged at 0.9999."""
        return cls(width=128, iterations=800_000, batch_size=128, learning_rate=2e-4, average=0.9999)


class DiffusionDocument(Config):
    """The contents of ``prior.json``; ``about`` is kept as it is."""

    format: Literal[1]
    kind: Literal["diffusion"]
    denoiser: DenoiserConfig
    public_hashes: tuple[str, ...] = ()
    about: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class DiffusionPrior:
    """A frozen denoiser of images like the attacker's own, and the record of its training."""

    document: DiffusionDocument
    denoiser: Denoiser

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of its images."""
        return self.document.denoiser.image_shape

    @property
    def digest(self) -> str:
        """A fingerprint of its architecture and weights."""
        sums = [float(value.double().sum()) for value in self.denoiser.state_dict().values()]
        return digest([self.document.denoiser.document(), sums])

    def save(self, folder: Path) -> None:
        """Writes ``folder``, whole or not at all.

        Raises:
            FileExistsError: ``folder`` is there, and no prior that was trained here.
            ValueError: Weights are not finite.
        """
        with written_folder(folder, PRIOR) as partial:
            save_weights(partial / "denoiser.safetensors", self.denoiser.state_dict())
            write_json(partial / PRIOR.mark, self.document.document())

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "DiffusionPrior":
        """Reads what `save` wrote; no code is run.

        Raises:
            FileNotFoundError: ``folder`` holds no prior.
            ValueError: It holds a prior of another kind, or its files do not fit together.
        """
        path = folder / PRIOR.mark
        if not path.is_file():
            raise FileNotFoundError(f"expected a prior (a folder that `splitleak prior` wrote) at {folder}")
        document = DiffusionDocument.parse(read_document(path), source=str(path))
        network = restored(lambda: Denoiser(document.denoiser), folder / "denoiser.safetensors")
        return cls(document, to_channels_last(freeze(network, device), device))


def train_diffusion(config: DiffusionConfig, public: Images, run: Run) -> DiffusionPrior:
    """Trains a denoiser on all of ``public``; resumable, repeatable by seed.

    Raises:
        ValueError: There are no images.
    """
    if not len(public):
        raise ValueError("expected at least one public image, got none")
    hashes = public.hashes()
    network, history = train_denoiser(config, public.floats(), run, identity=digest(sorted(hashes)))
    about = {"config": config.document(), "seed": run.seed, "history": history, "provenance": provenance()}
    document = DiffusionDocument(
        format=FORMAT, kind="diffusion", denoiser=network.config, public_hashes=tuple(hashes), about=about
    )
    return DiffusionPrior(document, network)


DIFFUSION = PriorKind(DiffusionConfig, DiffusionPrior.load, train_diffusion)


def load_prior(folder: Path, device: torch.device) -> Prior | DiffusionPrior:
    """The prior in ``folder``, of whichever kind it says it is.

    Raises:
        FileNotFoundError: ``folder`` holds no prior.
        ValueError: Its files do not fit together.
    """
    said = PRIOR.document(folder)
    if said is not None and said.get("kind") == "diffusion":
        return DiffusionPrior.load(folder, device)
    return Prior.load(folder, device)

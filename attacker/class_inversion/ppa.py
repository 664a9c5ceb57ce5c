"""PPA: plug and play, selection of initial latents, a Poincaré loss, and selection of results under augmentation."""

import torch
from pydantic import Field
from torch import Tensor

from splitleak.attacker.class_inversion.search import Identity, LatentSearch, Search, SearchConfig
from splitleak.attacker.training.augmentation import CropsConfig, random_crops
from splitleak.seeding import generator


class PPAConfig(SearchConfig):
    """Three stages. The defaults score as many candidates as the paper does of CelebA, which costs a tenth of a run.

    For the CPU they optimise ten of these, not 200, keep half, where the paper keeps a quarter, and choose by 20 views,
    not 100.
    """

    identity: Identity = "poincare"
    candidates: int = Field(default=5000, ge=0, description="latents scored for every class; 0: no first selection")
    restarts: int = Field(default=10, ge=1)
    images: int | None = Field(default=5, ge=1, description="kept of each class by the last selection")
    steps: int = Field(default=100, ge=0)
    mirrored_start: bool = Field(default=False, description="score a candidate by its mirror image too")
    views: CropsConfig = Field(default=CropsConfig(), description="of images on their way to the loss")
    final_views: CropsConfig = Field(
        default=CropsConfig(count=20, least=0.5, most=0.9, ratio=1.25), description="by which the last are chosen"
    )


class PPA(LatentSearch):
    r"""Plug and play: a generator that knows nothing of the target, and selection before and after the descent.

    Struppek et al., "Plug & play attacks: towards robust and flexible model inversion attacks", ICML 2022: (1) of many
    random latents each class takes those whose images the model is surest of; (2) Adam on the Poincaré loss of
    random crops; (3) those are kept of which it stays surest on average over many stronger random crops. Images
    ``(K, images, C, H, W)``, best first. Deviations: latents of a DCGAN instead of StyleGAN's w, hence no truncation of
    the latents and a larger rate; crops come back at the model's size; no mirrors unless asked for.
    """

    name = "ppa"
    config_type = PPAConfig
    config: PPAConfig

    @classmethod
    def paper_config(cls) -> PPAConfig:
        """FaceScrub's: 2000 candidates, 200 starts, 50 kept, Adam at 0.005 with betas of 0.1, 50 steps, 100 views."""
        return PPAConfig(
            candidates=2000,
            restarts=200,
            images=50,
            learning_rate=0.005,
            beta1=0.1,
            beta2=0.1,
            steps=50,
            mirrored_start=True,
            final_views=CropsConfig(count=100, least=0.5, most=0.9, ratio=1.25, mirror=True),
        )

    def first_scores(self, search: Search, images: Tensor) -> Tensor:
        plain = super().first_scores(search, images)
        return (plain + search.scores(images.flip(3))) / 2 if self.config.mirrored_start else plain

    def loss(self, search: Search, values: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        images = search.images(values, labels)
        losses = [self.identity(search, view, labels) for view in self.seen(images, self.config.views, draw)]
        return torch.stack(losses).mean(0)

    def judge(self, search: Search, images: Tensor, labels: Tensor) -> Tensor:
        draw = generator(search.run.seed, self.name, "views")
        views = self.seen(images, self.config.final_views, draw)
        return torch.stack([super(PPA, self).judge(search, view, labels) for view in views]).mean(0)

    def seen(self, images: Tensor, config: CropsConfig, draw: torch.Generator) -> list[Tensor]:
        """As many views of the images as ``config`` says."""
        return [random_crops(images, config, draw) for _ in range(config.count)]

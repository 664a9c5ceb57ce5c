"""Progressive feature optimisation: after GLASS, what enters each further block of the generator descends, in turn."""

import itertools

import torch
from pydantic import Field
from torch import Tensor

from splitleak.attacker.class_inversion.if_gmi import into_l1_ball
from splitleak.attacker.reconstruction.glass import GlassAttack, GlassConfig, Search
from splitleak.attacker.training.rows import Stage
from splitleak.measures.pixel import total_variation

_AS_GLASS = (0.0, 0.0)  # radius and weight of the smoothness


class PfoConfig(GlassConfig):
    """GLASS's search, and the descents block by block behind it."""

    steps: int = Field(default=120, ge=0, description="steps on w, from the best latent")
    block_steps: int = Field(default=150, ge=0, description="steps on what enters each block behind w's")
    block_learning_rate: float = Field(default=0.05, gt=0, description="falls along a cosine to a hundredth")
    radii: tuple[float, ...] = Field(
        default=(0.1, 0.3),
        min_length=1,
        description="of the L1 balls, for each value of what enters a block; rehearsed",
    )


class PfoAttack(GlassAttack):
    """Searches as GLASS does; then what enters the next block descends, within an L1 ball around where it was.

    "Progressive feature optimisation", arXiv:2508.20613, of which we know no code: block by block, from coarse to fine,
    as by the same group in Fang et al., "GIFD: a generative gradient inversion method with feature domain
    optimization", ICCV 2023, and IF-GMI, ECCV 2024. After every step, the way from where a block's descent began is
    projected into an L1 ball; the block's iterate with the least feature error enters the next, so that the error never
    rises from block to block. A ball's radius is ``radii`` times the number of values, and that factor is chosen in a
    rehearsal on public images, with the weight of the smoothness. With radius 0 it is GLASS, whose pictures stay as
    they are where none of the rehearsed radii betters them, as behind much noise.

    Deviations: those of `glass`; radii grow with the size of what they hold (the published ones are of StyleGAN2's
    features), and so one factor serves all blocks; the generator has no styles that descend beside the features.
    """

    name = "pfo"
    config_type = PfoConfig
    config: PfoConfig

    @classmethod
    def paper_config(cls) -> PfoConfig:
        """GIFD's descents, 1,000 steps a block at 0.1, behind the search of GLASS's paper."""
        glass = GlassAttack.paper_config().document()
        return PfoConfig.parse(
            {**glass, "block_steps": 1000, "block_learning_rate": 0.1, "radii": (0.01, 0.03, 0.1)}, source="paper"
        )

    def refined(self, search: Search, latents: Tensor, targets: Tensor, truth: Tensor) -> Tensor:
        config, drawing = self.config, search.drawing
        if len(drawing.blocks) < 3:
            raise ValueError(f"attack {self.name!r}: expected a generator with blocks, got an imported one")
        w, _ = self.descended(search, latents, targets, truth)
        count, last = len(truth), len(drawing.blocks) - 1

        def through(name: str, rows: Tensor, own: Tensor, settings: Tensor) -> Tensor:
            errors = list[float]()
            radii, smoothness = settings.unbind(1)
            for place in range(drawing.first + 1, last + 1):
                with torch.no_grad():
                    rows = drawing.between(rows, place - 1, place)
                begun, far = rows, radii * rows[0].numel()

                def within(values: Tensor, begun: Tensor = begun, far: Tensor = far) -> None:
                    values.copy_(begun + into_l1_ball((values - begun).flatten(1), far).view_as(begun))

                def penalty(_: Tensor, images: Tensor, part: slice) -> Tensor:
                    return smoothness[part] * total_variation(2 * images - 1) + self.plain(images)

                stage = Stage(f"{name}-{place}", config.block_steps, config.block_learning_rate, config.adam_epsilon)
                rows, found = search.descend(stage, place, begun, own, penalty, constrain=within)
                errors.append(float(found.mean()))
            self.findings[f"{name}_errors"] = errors
            return search.images(rows, last)

        candidates = list(itertools.product(config.radii, config.tv_weights))
        chosen = candidates[0]
        if count and len(candidates) > 1:
            settings = torch.tensor(candidates, device=targets.device).repeat_interleave(count, 0)
            tries = len(candidates)
            own = targets[:count].repeat(tries, *[1] * (targets.ndim - 1))
            images = through("blocks-rehearsal", w[:count].repeat(tries, *[1] * (w.ndim - 1)), own, settings)
            candidates, images = [_AS_GLASS, *candidates], torch.cat([search.images(w[:count], drawing.first), images])
            chosen = candidates[self.best(images, truth, candidates, "radii")]
        self.findings |= {"radius": chosen[0], "block_tv_weight": chosen[1]}
        if chosen == _AS_GLASS:
            return search.images(w[count:], drawing.first)
        settings = torch.tensor([chosen] * (len(targets) - count), device=targets.device)
        return through("blocks", w[count:], targets[count:], settings)

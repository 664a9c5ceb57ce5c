"""Linear attack: the pixels under each place of a feature, by ridge regression from the values around it."""

import torch
from torch import Tensor

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.training.fitting import gather
from splitleak.attacker.training.ridge import RidgeConfig, RidgeGauge


class LinearAttack(Attack):
    """Queries the edge with its public images, and fits a linear map from features to images in closed form.

    Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal problems", Technometrics 1970; see
    `RidgeGauge`. Its use is ours: it costs about a second of one core, has nothing to tune, and is a floor that no
    other attack on features may miss.
    """

    name = "linear"
    config_type = RidgeConfig
    needs = frozenset({"public", "query"})
    config: RidgeConfig

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        features = gather(known, self.name)
        gauge = RidgeGauge(
            known.parts or [tuple(features.shape[2:])],
            known.image_shape,
            len(known.public),
            seed=run.seed,
            config=self.config,
            groups=known.labels,
            device=run.device,
        )
        batches = torch.arange(len(known.public)).split(256)
        for drawn in features:
            for done, batch in enumerate(batches, 1):
                gauge.add(drawn[batch], known.public[batch])
                run.report("attack", done, len(batches), {})
        self.network = fitted = gauge.solve()
        self.findings = gauge.findings
        return fitted.predict(known.captured)

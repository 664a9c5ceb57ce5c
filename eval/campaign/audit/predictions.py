"""The audit of a prediction service: inversions of the scores that victims share, of all of them and of the highest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splitleak.attacker.reconstruction.prediction import PredictionInversionAttack, PredictionInversionConfig
from splitleak.cloud.policy import PolicyConfig
from splitleak.config import digest
from splitleak.eval.campaign.audit.attacks import FEWER_QUERIES, epochs_of_fewer, nominal_minutes
from splitleak.eval.campaign.plan import Job
from splitleak.models.counting import count_macs
from splitleak.models.inverter import PredictionInverter

_ATTACK = PredictionInversionAttack.name
_PUBLIC = "same"  # the kind of the attacker's images, which `splitleak split` drew from the victims' data set
_SHARES = {"all scores": 0, "3 highest": 3, "the highest": 1}  # how many scores victims share; 0: all
_LONGER = 4  # times the default's epochs


@dataclass(frozen=True)
class Inversion:
    """An attack of the list; ``minutes`` are nominal, for one number of scores shared."""

    name: str
    minutes: float
    settings: tuple[tuple[str, Any], ...] = ()
    max_queries: int | None = None


def shares(classes: int) -> dict[str, int]:
    """How many of a service's scores victims share, by the name of the row."""
    return {name: share for name, share in _SHARES.items() if share < classes}


def inversions(minutes: float, pairs: int, classes: int, image_shape: tuple[int, int, int]) -> list[Inversion]:
    """The attacks of the list, in the order in which they run; those that the budget does not cover are left out.

    The first is always there.

    Args:
        minutes: The budget, nominal, of one core, for all numbers of scores together.
        pairs: The attacker's images.
        classes: Scores that the service answers with.
        image_shape: ``(C, H, W)``.
    """
    left = minutes / len(shares(classes))
    chosen: list[Inversion] = []
    for candidate in _candidates(pairs, classes, image_shape):
        if not chosen or candidate.minutes <= left:
            chosen.append(candidate)
            left -= candidate.minutes
    return chosen


def _candidates(pairs: int, classes: int, image_shape: tuple[int, int, int]) -> Iterator[Inversion]:
    config = PredictionInversionConfig()
    with torch.device("meta"):
        macs = count_macs(PredictionInverter(classes, image_shape, config.width), (classes,)).macs

    def trained(name: str, pairs: int, epochs: int, max_queries: int | None = None) -> Inversion:
        settings = () if epochs == config.epochs else (("epochs", epochs),)
        return Inversion(name, nominal_minutes(macs, pairs, epochs), settings, max_queries)

    yield trained("inversion", pairs, config.epochs)
    for queries in FEWER_QUERIES:
        if queries < pairs:
            epochs = epochs_of_fewer(queries, pairs, config.epochs)
            yield trained(f"inversion {queries} queries", queries, epochs, queries)
    yield trained("inversion longer", pairs, _LONGER * config.epochs)


def prediction_jobs(train: Job, listed: Sequence[Inversion], classes: int, labels: dict[str, Any]) -> Iterator[Job]:
    """A service with its clients, and every attack on every number of scores that victims share.

    Args:
        train: The target's job.
        listed: The attacks.
        classes: Scores that the service answers with.
        labels: Where the cells stand in the report, without their rows and columns.
    """
    rows, public = shares(classes), f"{train.settings['images']}/public.npz"
    service: dict[str, Any] = {
        "images": train.settings["images"],
        "artifact": train.output,
        "policy": PolicyConfig().document(),
        "purifier": None,
        "shares": sorted(rows.values()),
        "auxiliaries": {_PUBLIC: public},
        "draws": 1,
        "digest": train.settings["digest"],
    }
    key = digest([service, train.seed])
    predict = Job.of("predict", key, train.label, train.seed, f"predictions/{key}", [train], service)
    yield predict
    for row, share in rows.items():
        for entry in listed:
            yield _cell(train, predict, entry, share, {**labels, "method": row, "attack": entry.name})


def _cell(train: Job, predict: Job, entry: Inversion, share: int, labels: dict[str, Any]) -> Job:
    config = PredictionInversionConfig.parse(dict(entry.settings), source=entry.name)
    settings = {
        "cell": {**labels, "seed": train.seed, "views": 1, "target": train.key},
        "images": train.settings["images"],
        "artifact": train.output,
        "predictions": predict.output,
        "auxiliary": _PUBLIC,
        "auxiliary_images": predict.settings["auxiliaries"][_PUBLIC],
        "share": share,
        "attack": _ATTACK,
        "settings": config.document(),
        "needs": sorted(PredictionInversionAttack.needs),
        "preset": "cpu",
        **({} if entry.max_queries is None else {"max_queries": entry.max_queries}),
    }
    key = digest([settings, train.seed])
    label = f"{labels['method']}, {entry.name}, seed {train.seed}"
    return Job.of("cell", key, label, train.seed, f"cells/{key}/score", [predict, train], settings)

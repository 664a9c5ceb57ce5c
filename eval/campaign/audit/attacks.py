"""The audit: a fixed, versioned list of attacks on features, from the cheapest to the strongest, for a budget of time.

What AutoAttack is to robustness (Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", ICML 2020): no knobs but a threat model and a budget. Which attacks run, and how long
each trains, follows from these and from the sizes of target and images alone, not from the clock: an audit that was
interrupted, or runs elsewhere, has the same jobs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from splitleak.attacker.base import Shapes
from splitleak.attacker.reconstruction.decoder import DecoderConfig
from splitleak.eval.campaign.audit.config import AuditConfig
from splitleak.eval.campaign.config import AttackEntry
from splitleak.models.counting import count_macs

VERSION = "audit 1"
"""The list's name and version. Its figures are compared with those of the same version only."""

FEWER_QUERIES = (1000, 300, 100)
"""How many queries the curve against queries has beside all."""

_MACS_A_MINUTE = 3e12  # of a training step, on one core with AMX or an AVX-512 of today: the unit of a budget
_PASSES = 3  # forward, and backward for features and for weights
_FIXED_MINUTES = 0.15  # of any attack: processes, reading, scoring
_STEPS_OF_FEW = 4  # times the epochs that fewer pairs get at most, so that they are not trained too short
_LONGEST, _WORTH_IT = 4, 1.5  # times the default's epochs
_LARGEST_CAPTURE = 2**29  # bytes of answers on record
_OFTEN = 16  # crossings, which an audit has before any other number
_CURVES_MINUTES = 10  # of a budget that has room for others
_ANSWERS_OF_LINEAR = 4  # draws that a closed form learns noise from
_ANSWERS_OF_MIRRORED = 8  # draws for each image and for its mirror image
_SLICE = 32  # victims that a search's minutes are told for


@dataclass(frozen=True)
class Sizes:
    """What an audit's length follows from."""

    pairs: int
    victims: int
    feature_shape: tuple[int, ...]
    image_shape: tuple[int, int, int]
    randomised: bool  # whether the target draws anew at each crossing

    def crossings(self, minutes: float) -> tuple[int, ...]:
        """How often pictures cross the wire, the last number in all: once, unless the target draws anew.

        Then up to 16 times, and up to 64 where a curve fits the budget, as far as a capture may be large.
        """
        if not self.randomised:
            return (1,)
        each = 4 * math.prod(self.feature_shape) * (self.pairs + self.victims)
        often = (1, 4, 16, 64) if minutes >= _CURVES_MINUTES else (1, 16)
        return tuple(views for views in often if views == 1 or views * each <= _LARGEST_CAPTURE)

    def decoder_minutes(self, config: DecoderConfig) -> float:
        """Nominal minutes of a decoder attack."""
        macs = _decoder_macs(config, Shapes(self.feature_shape, self.image_shape, self.pairs))
        return nominal_minutes(macs, self.pairs, config.epochs)


@cache
def _decoder_macs(config: DecoderConfig, shapes: Shapes) -> int:
    with torch.device("meta"):
        decoder = config.build(shapes)
    return count_macs(decoder, shapes.feature_shape).macs


def nominal_minutes(macs: int, pairs: int, epochs: int) -> float:
    """Nominal minutes of an attack that trains a network of so many multiply-accumulates a pair."""
    return _FIXED_MINUTES + _PASSES * macs * pairs * epochs / _MACS_A_MINUTE


@dataclass(frozen=True)
class _Candidate:
    name: str
    attack: str
    minutes: float
    settings: tuple[tuple[str, Any], ...] = ()
    views: int = 1
    max_queries: int | None = None
    answers: int | None = None
    mirrored: bool = False


def audit_entries(config: AuditConfig, sizes: Sizes) -> list[AttackEntry]:
    """The attacks of an audit, in the order in which they run; those that the budget does not cover are left out.

    The first is always there. A longer training takes what the others leave of the budget, up to four times its epochs.
    """
    left, most = config.minutes, sizes.crossings(config.minutes)[-1]
    chosen: list[_Candidate] = []
    for candidate in _candidates(config, sizes):
        if chosen and candidate.minutes > left:
            continue
        chosen.append(candidate)
        left -= candidate.minutes
    if config.threat != "no-queries" and (longer := _longer(sizes, left)) is not None:
        chosen.append(longer)
    return [
        AttackEntry(
            name=candidate.name,
            attack=candidate.attack,
            settings=dict(candidate.settings),
            views=candidate.views,
            max_queries=candidate.max_queries,
            answers=candidate.answers,
            mirrored=candidate.mirrored,
            crossings=1 if candidate.mirrored else most,  # a capture of its own, so no more than it uses
            draws=min(_ANSWERS_OF_MIRRORED, most) if candidate.mirrored else most,
        )
        for candidate in chosen
    ]


def _candidates(config: AuditConfig, sizes: Sizes) -> Iterator[_Candidate]:
    """By what each is worth for its time, the cheapest first."""
    if config.threat == "no-queries":
        yield from (_Candidate(name, name, 2) for name in ("query-free", "sdar", "fora"))
        return
    decoder = sizes.decoder_minutes(DecoderConfig())
    yield _Candidate("nearest", "nearest", _FIXED_MINUTES)
    _, *views = crossings = sizes.crossings(config.minutes)
    yield _Candidate("linear", "linear", _FIXED_MINUTES, answers=min(_ANSWERS_OF_LINEAR, crossings[-1]))
    yield _Candidate("decoder", "decoder", decoder)
    if views:
        often = _OFTEN if _OFTEN in views else views[-1]
        yield _Candidate(f"decoder {often} crossings", "decoder", decoder, views=often)
    if config.threat == "white-box":
        yield from _white(sizes, decoder)
    yield _Candidate("decoder mirrored", "decoder", 2 * decoder, mirrored=True)
    for queries in FEWER_QUERIES:
        if queries < sizes.pairs:
            epochs = epochs_of_fewer(queries, sizes.pairs, DecoderConfig().epochs)
            share = queries * epochs / (sizes.pairs * DecoderConfig().epochs)
            name, settings = f"decoder {queries} queries", (("epochs", epochs),)
            yield _Candidate(name, "decoder", share * decoder + _FIXED_MINUTES, settings, 1, queries, answers=1)
    for often in views:
        if often != _OFTEN:
            yield _Candidate(f"decoder {often} crossings", "decoder", decoder, views=often)


def epochs_of_fewer(queries: int, pairs: int, epochs: int) -> int:
    """Epochs on fewer pairs, that these are not trained on too shortly."""
    return round(epochs * min(_STEPS_OF_FEW, pairs / queries))


def _white(sizes: Sizes, decoder: float) -> Iterator[_Candidate]:
    searches = -(-sizes.victims // _SLICE)
    yield _Candidate("maximum-likelihood", "maximum-likelihood", 2 * decoder)
    yield from (_Candidate(name, name, 2.0 * searches) for name in ("drag", "glass", "pfo"))


def _longer(sizes: Sizes, left: float) -> _Candidate | None:
    """A decoder that trains longer, as far as there is time; mirror images keep it from overfitting."""
    once = 2 * sizes.decoder_minutes(DecoderConfig())
    times = min(_LONGEST, (left - _FIXED_MINUTES) / (once - _FIXED_MINUTES))
    if times < _WORTH_IT:
        return None
    epochs = int(times * DecoderConfig().epochs)
    return _Candidate("decoder mirrored longer", "decoder", left, (("epochs", epochs),), mirrored=True)

"""The audit: a fixed, versioned list of attacks on features, from the cheapest to the strongest, for a budget of time.

What AutoAttack is to robustness (Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", ICML 2020): no knobs but a threat model and a budget. Which attacks run, and how long
each trains, follows from these and from the sizes of target and images alone, not from the clock: an audit that was
interrupted, or runs elsewhere, has the same jobs.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from splitleak.attacker.base import Shapes
from splitleak.attacker.reconstruction.decoder import DecoderConfig
from splitleak.eval.campaign.audit.config import AuditConfig, after
from splitleak.eval.campaign.config import AttackEntry
from splitleak.models.counting import count_macs

FEWER_QUERIES = (1000, 300, 100)
"""How many queries the curve against queries has beside all."""

_MACS_A_MINUTE = 3e12  # of a training step, on one core with AMX or an AVX-512 of today: the unit of a budget
_PASSES = 3  # forward, and backward for features and for weights
_FIXED_MINUTES = 0.15  # of any attack: processes, reading, scoring
_STEPS_OF_FEW = 4  # times the epochs that fewer pairs get at most, so that they are not trained too short
_LONGEST, _WORTH_IT = 4, 1.5  # times the default's epochs
_LARGEST_CAPTURE = 2**29  # bytes of answers on record
_OFTEN = 16  # crossings, which an audit has before any other number, and after which the strongest attacks run too
_CURVES_MINUTES = 10  # of a budget that has room for others
_ANSWERS_OF_LINEAR = 4  # draws that a closed form learns noise from
_OF_MIRRORED = (_OFTEN, 8, 4)  # draws for each image and for its mirror image, as many as fit
_SLICE = 32  # victims that a search's minutes are told for


@dataclass(frozen=True)
class Sizes:
    """What an audit's length follows from."""

    pairs: int
    victims: int
    feature_shape: tuple[int, ...]
    image_shape: tuple[int, int, int]
    randomised: bool  # whether the target draws anew at each crossing
    parts: tuple[tuple[int, ...], ...] | None = None  # of flat features, see `Knowledge`

    def crossings(self, minutes: float) -> tuple[int, ...]:
        """How often pictures cross the wire, the last number in all: once, unless the target draws anew.

        Then up to 16 times, and up to 64 where a curve fits the budget, as far as a capture may be large.
        """
        if not self.randomised:
            return (1,)
        often = (1, 4, _OFTEN, 64) if minutes >= _CURVES_MINUTES else (1, _OFTEN)
        return tuple(views for views in often if self.fits(views))

    def mirrored_crossings(self, minutes: float) -> int:
        """How often pictures and their mirror images cross: 16, 8 or 4 times, as often as fits; else once."""
        most = self.crossings(minutes)[-1]
        return next((views for views in _OF_MIRRORED if views <= most and self.fits(views, pairs=2 * self.pairs)), 1)

    def fits(self, views: int, *, pairs: int | None = None) -> bool:
        """Whether a capture may be as large as so many crossings make it; one may. ``pairs``: if others are asked."""
        asked = self.pairs if pairs is None else pairs
        return views == 1 or views * 4 * math.prod(self.feature_shape) * (asked + self.victims) <= _LARGEST_CAPTURE

    def decoder_minutes(self, config: DecoderConfig) -> float:
        """Nominal minutes of a decoder attack."""
        macs = _decoder_macs(config, Shapes(self.feature_shape, self.image_shape, self.pairs, self.parts))
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

    The first is always there. Longer trainings take what the others leave of the budget, up to four times their epochs.
    """
    left, most = config.minutes, sizes.crossings(config.minutes)[-1]
    mirrored = sizes.mirrored_crossings(config.minutes)
    chosen: list[_Candidate] = []
    for candidate in _candidates(config, sizes):
        if chosen and candidate.minutes > left:
            continue
        chosen.append(candidate)
        left -= candidate.minutes
    if config.threat != "no-queries":
        chosen += _longer(config, sizes, left)
    return [
        AttackEntry(
            name=candidate.name,
            attack=candidate.attack,
            settings=dict(candidate.settings),
            views=candidate.views,
            max_queries=candidate.max_queries,
            answers=candidate.answers,
            mirrored=candidate.mirrored,
            crossings=mirrored if candidate.mirrored else most,  # of a capture that all of its kind share
            draws=mirrored if candidate.mirrored else most,
        )
        for candidate in chosen
    ]


def _candidates(config: AuditConfig, sizes: Sizes) -> Iterator[_Candidate]:
    """By what each is worth for its time, the cheapest first."""
    decoder = sizes.decoder_minutes(DecoderConfig())
    _, *views = crossings = sizes.crossings(config.minutes)
    often = _OFTEN if _OFTEN in views else crossings[-1]
    if config.threat == "no-queries":
        known = [_Candidate(name, name, 2) for name in ("query-free", "sdar", "fora")]
        yield from (*known, *_averaging(known, often))
        return
    yield _Candidate("nearest", "nearest", _FIXED_MINUTES)
    yield _Candidate("linear", "linear", _FIXED_MINUTES, answers=min(_ANSWERS_OF_LINEAR, crossings[-1]))
    yield from _and_averaging(_Candidate("decoder", "decoder", decoder), often)
    searches = [
        _Candidate(name, name, 2.0 * -(-sizes.victims // _SLICE))
        for name in (("drag", "glass", "pfo") if config.threat == "white-box" else ())
    ]
    if config.threat == "white-box":
        yield from _and_averaging(_Candidate("maximum-likelihood", "maximum-likelihood", 2 * decoder), often)
        yield from searches
    mirrored = _Candidate("decoder mirrored", "decoder", 2 * decoder, mirrored=True)
    yield from _and_averaging(mirrored, often if often <= sizes.mirrored_crossings(config.minutes) else 1)
    for queries in FEWER_QUERIES:
        if queries < sizes.pairs:
            epochs = epochs_of_fewer(queries, sizes.pairs, DecoderConfig().epochs)
            share = queries * epochs / (sizes.pairs * DecoderConfig().epochs)
            name, settings = f"decoder {queries} queries", (("epochs", epochs),)
            yield _Candidate(name, "decoder", share * decoder + _FIXED_MINUTES, settings, 1, queries, answers=1)
    for other in views:
        if other != often:
            yield from _averaging([_Candidate("decoder", "decoder", decoder)], other)
    yield from _averaging(searches, often)


def _averaging(candidates: Iterable[_Candidate], often: int) -> list[_Candidate]:
    """The same attacks on the mean of several crossings, where there are several."""
    return [replace(each, name=after(each.name, often), views=often) for each in candidates if often > 1]


def _and_averaging(candidate: _Candidate, often: int) -> list[_Candidate]:
    return [candidate, *_averaging([candidate], often)]


def epochs_of_fewer(queries: int, pairs: int, epochs: int) -> int:
    """Epochs on fewer pairs, that these are not trained on too shortly."""
    return round(epochs * min(_STEPS_OF_FEW, pairs / queries))


def _longer(config: AuditConfig, sizes: Sizes, left: float) -> list[_Candidate]:
    """Decoders that train longer, as far as there is time; mirror images keep them from overfitting.

    One sees each picture once; where there is time for two, the other sees the mean of several crossings.
    """
    often = _OFTEN if sizes.mirrored_crossings(config.minutes) >= _OFTEN else 1
    once = 2 * sizes.decoder_minutes(DecoderConfig())

    def times(minutes: float) -> float:
        return min(_LONGEST, (minutes - _FIXED_MINUTES) / (once - _FIXED_MINUTES))

    for share in (2, 1) if often > 1 else (1,):
        if times(left / share) >= _WORTH_IT:
            epochs = int(times(left / share) * DecoderConfig().epochs)
            longer = _Candidate(
                "decoder mirrored longer", "decoder", left / share, (("epochs", epochs),), mirrored=True
            )
            return _and_averaging(longer, often if share > 1 else 1)
    return []

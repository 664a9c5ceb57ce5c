"""What flat features were before they were flattened, told by an attacker's own pairs."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from splitleak.attacker.base import Attack, Knowledge
from splitleak.attacker.training.ridge import RidgeGauge
from splitleak.models.grids import Map
from splitleak.seeding import generator

PICTURES = 300
"""How many pictures, at most, tell what vectors were."""

_LESS = 0.75  # of the error with values shuffled, at most that of a map; maps had .1 to .4, vectors .8 to 1.2
_FEWEST = 30
_HALVINGS = range(6)  # of a picture's sides, that a map may have
_NARROWEST = 4  # places; of fewer a regression cannot tell, and a decoder sees all of them at once


def flattened_maps(values: int, image_shape: Map) -> Iterator[Map]:
    """The maps, channels first and last, that vectors of so many values may be of pictures ``(C, H, W)``.

    >>> list(flattened_maps(32, (1, 8, 8)))
    [(2, 4, 4), (4, 4, 2)]
    """
    for halvings in _HALVINGS:
        high, wide = (-(-side // 2**halvings) for side in image_shape[1:])
        channels = values // (high * wide)
        if channels * high * wide == values and min(high, wide) >= _NARROWEST:
            yield channels, high, wide
            yield from [(high, wide, channels)] if channels > 1 else []


def likeliest_map(features: Tensor, images: Tensor, *, seed: int = 0) -> Map | None:
    """The map that vectors were, if a linear regression onto pictures tells it; None: no map, or nothing tells it.

    A regression shares its weights over the places of a map, see `RidgeGauge`, and errs less on pictures that are held
    out where values lie as it takes them to lie. Ours; an attacker who takes a map for a vector finds less.

    Args:
        features: ``(N, D)``.
        images: That they are of, ``(N, C, H, W)`` in [0, 1].
        seed: Of the pictures held out.
    """
    few, own = features[:PICTURES].float(), images[:PICTURES]
    if len(few) < _FEWEST:
        return None
    shape = (own.shape[1], own.shape[2], own.shape[3])
    shuffled = few[:, torch.randperm(few.shape[1], generator=generator(seed, "flattened"))]

    def error(vectors: Tensor, layout: Map) -> float:
        found = RidgeGauge.fitted(vectors, own, shapes=[layout], seed=seed).findings["held_out_mse"]
        assert isinstance(found, float)
        return found if math.isfinite(found) else math.inf

    errors = {layout: error(few, layout) for layout in flattened_maps(few.shape[1], shape)}
    best = min(errors, key=lambda layout: errors[layout], default=None)
    return best if best is not None and errors[best] < _LESS * error(shuffled, best) else None


def laid_out(known: Knowledge, attack: Attack, seed: int) -> Knowledge:
    """What the attacker knows, with the map that captured vectors were, where answers tell it that it asks for anyway.

    As recorded answers are not asked for, who has them tells the map by them before.
    """
    query, public = known.query, known.public
    if query is None or query.recorded or "query" not in attack.needs or public is None:
        return known
    if known.kind != "features" or known.captured.ndim != 2 or known.parts is not None:
        return known
    images = public[:PICTURES]
    found = likeliest_map(query.ahead(images), images, seed=seed)
    return known if found is None else replace(known, parts=(found,))

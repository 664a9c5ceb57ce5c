"""From features to pictures at once, one request after the other: a decoder that an attack has saved, or a gauge."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splitleak.artifacts import assign_weights, check_finite, load_tensors
from splitleak.attacker.arrays import read_pairs
from splitleak.attacker.base import Shapes, build
from splitleak.attacker.outputs import ATTACK, WEIGHTS
from splitleak.attacker.queries import recorded_query
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.training.fitting import predict
from splitleak.attacker.training.ridge import RidgeGauge
from splitleak.config import read_table
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_edge

_CPU = torch.device("cpu")
_BATCH = 64


@dataclass(frozen=True)
class Rebuilder:
    """Features ``(N, *feature_shape)`` to images ``(N, C, H, W)`` in [0, 1], by a method of that name."""

    name: str
    feature_shape: tuple[int, ...]
    rebuild: Callable[[Tensor], Tensor]


def saved_decoder(folder: Path) -> Rebuilder:
    """The decoder that an attack trained, from the folder that `splitleak attack` wrote.

    Raises:
        FileNotFoundError: There is no such folder, or its attack has trained nothing.
        ValueError: What it has trained is no network from features to pictures, or an older version wrote it.
    """
    if not (folder / ATTACK.mark).is_file():
        raise FileNotFoundError(f"expected a folder that `splitleak attack` wrote, got {folder}")
    about = read_table(folder / ATTACK.mark)
    weights, fitted = load_tensors(folder / WEIGHTS)
    check_finite(folder / WEIGHTS, weights)
    if about["attack"] not in ATTACKS:
        raise ValueError(f"{folder}: expected an attack on features, got {about['attack']!r}")
    attack = build(ATTACKS, about["attack"], "cpu", about["config"])
    if not fitted:
        raise ValueError(f"{folder}: expected weights with the shapes they are for; `attack --force` writes them anew")
    shapes = Shapes(**{name: _tuples(json.loads(text)) for name, text in fitted.items()})
    network = attack.untrained(shapes)
    if network is None:
        raise ValueError(f"{folder}: expected an attack that trains a decoder, got {attack.name!r}")
    assign_weights(network, weights, f"{folder / WEIGHTS}: expected weights of {attack.name!r}")
    return Rebuilder(attack.name, shapes.feature_shape, lambda features: predict(network, features, _CPU))


def linear_gauge(public: Images, *, encoder: Path | None = None, pairs: Path | None = None) -> Rebuilder:
    """A linear map learned in a second from the attacker's images and what they become on the wire.

    Args:
        public: The attacker's images.
        encoder: The edge half of the artifact, which they are sent through in this process, defenses included.
        pairs: Or what `splitleak query` recorded of them.

    Raises:
        ValueError: There is neither, or both; or images and record do not fit together.
    """
    if (encoder is None) == (pairs is None):
        raise ValueError("expected either an encoder or recorded queries to learn a linear gauge from")
    if pairs is not None:
        query, public = recorded_query(read_pairs(pairs), pairs, public, None, None)
        images = public.floats()
        features = query(images)
    else:
        assert encoder is not None
        half = load_edge(encoder, _CPU)
        images = public.fitted(half.input_shape[1:], half.input_shape[0]).floats()
        features = torch.cat([torch.from_numpy(half.encode(batch.numpy())) for batch in images.split(_BATCH)])
    gauge: nn.Module = RidgeGauge.of(features, images)
    return Rebuilder("linear gauge", tuple(features.shape[1:]), lambda seen: predict(gauge, seen, _CPU))


def _tuples(value: Any) -> Any:  # noqa: ANN401  # of JSON
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

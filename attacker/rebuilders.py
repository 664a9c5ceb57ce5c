"""From features to pictures at once, one request after the other: a decoder that an attack has saved, or a gauge."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splitleak.artifacts import assign_weights, check_finite, load_tensors
from splitleak.attacker.arrays import read_pairs
from splitleak.attacker.base import Shapes, build
from splitleak.attacker.likeness import Apart
from splitleak.attacker.outputs import APART, ATTACK, SERVED, WEIGHTS
from splitleak.attacker.queries import recorded_query, requests
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.training.fitting import predict
from splitleak.attacker.training.flattened import likeliest_map
from splitleak.attacker.training.ridge import RidgeGauge
from splitleak.config import read_table
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import EdgeHalf, load_edge
from splitleak.errors import explained

_CPU = torch.device("cpu")
_BATCH = 64
_LOOKED_AT = 200  # requests of a capture


@dataclass(frozen=True)
class Rebuilder:
    """Features ``(N, *feature_shape)`` to images ``(N, C, H, W)`` in [0, 1], by a method of that name.

    ``served`` is the name of the model whose traffic it was trained on, and ``edge`` the digest of that model's edge
    half, each where the attack knew it. ``apart`` is that of the features of public pictures,
    where they are at hand.
    """

    name: str
    feature_shape: tuple[int, ...]
    rebuild: Callable[[Tensor], Tensor]
    served: str | None = None
    edge: str | None = None
    apart: Apart | None = None

    def doubt(self, model: str, shape: tuple[int, ...]) -> str:
        """Why features ``shape`` for ``model`` have no picture, or a poor one; empty if nothing is known."""
        if shape != self.feature_shape:
            return f"no picture: {self._takes(shape)}, so that it is another target's"
        if self.served is not None and model != self.served:
            return f"the {self.name} was trained on the features of {self.served}, and these are of {model}"
        return ""

    def check_capture(self, capture: Path) -> None:
        """Refuses a capture none of whose first requests has features that this takes; one without any may get some.

        Raises:
            ValueError: They are of another target.
        """
        shapes = {features.shape[1:] for _, features in islice(requests(capture), _LOOKED_AT)}
        if shapes and self.feature_shape not in shapes:
            raise ValueError(f"{capture}: expected features of the target that is attacked; {self._takes(min(shapes))}")

    def check_target(self, half: EdgeHalf) -> None:
        """Refuses a target other than the one that this was trained for, as far as shapes and digests tell.

        Raises:
            ValueError: It is another one.
        """
        expected = f"expected a decoder that was trained for the target {half.name}"
        if half.feature_shape != self.feature_shape:
            raise ValueError(f"{expected}; {self._takes(half.feature_shape)}")
        if self.edge not in (None, half.digest):
            raise ValueError(f"{expected}, whose edge half has the digest {half.digest}; it attacked {self.edge}")

    def _takes(self, shape: tuple[int, ...]) -> str:
        takes, got = (" × ".join(map(str, each)) for each in (self.feature_shape, shape))
        return f"the {self.name} takes features of {takes}, and these are of {got}"


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
    name, config, models = about["attack"], about["config"], about.get("models", {})
    if not isinstance(models, dict):
        raise ValueError(f"{folder / ATTACK.mark}: expected digests by name as models, got {models!r:.40}")
    if not isinstance(name, str) or name not in ATTACKS:
        raise ValueError(f"{folder}: expected an attack on features, got {name!r}")
    with explained(folder / ATTACK.mark, f"the settings of {name!r}"):
        attack = build(ATTACKS, name, "cpu", config)
    if not fitted:
        raise ValueError(f"{folder}: expected weights with the shapes they are for; `attack --force` writes them anew")
    served, apart = fitted.pop(SERVED, None), fitted.pop(APART, None)
    with explained(folder / WEIGHTS, f"weights of {name!r} with the shapes they are for"):
        shapes = Shapes(**{name: _tuples(json.loads(text)) for name, text in fitted.items()})
        with torch.device("meta"):
            described = attack.untrained(shapes)
        kept_apart = None if apart is None else Apart(**json.loads(apart))
    if described is None:
        raise ValueError(f"{folder}: expected an attack that trains a decoder, got {attack.name!r}")
    expected = f"{folder / WEIGHTS}: expected weights of {attack.name!r}"
    assign_weights(described, weights, expected, assign=True)  # takes no memory before its size is that of the weights
    network = attack.untrained(shapes)
    assert network is not None
    assign_weights(network, weights, expected)
    return Rebuilder(
        attack.name,
        shapes.feature_shape,
        lambda features: predict(network, features, _CPU),
        served=served,
        edge=models.get("edge"),
        apart=kept_apart,
    )


def linear_gauge(public: Images, *, encoder: Path | None = None, pairs: Path | None = None) -> Rebuilder:
    """A linear map learned in a second from the attacker's images and what they become on the wire.

    Where values of a vector lay is told by the encoder, or by the regression itself, see `likeliest_map`.

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
        features, parts = query(images), None
    else:
        assert encoder is not None
        half = load_edge(encoder, _CPU)
        images = public.fitted(half.input_shape[1:], half.input_shape[0]).floats()
        features = torch.cat([torch.from_numpy(half.encode(batch.numpy())) for batch in images.split(_BATCH)])
        parts = half.config.parts
    if parts is None and features.ndim == 2:
        found = likeliest_map(features, images)
        parts = None if found is None else (found,)
    gauge: nn.Module = RidgeGauge.fitted(features, images, shapes=parts).map
    shape = tuple(features.shape[1:])
    return Rebuilder("linear gauge", shape, lambda seen: predict(gauge, seen, _CPU), apart=Apart.of(features))


def _tuples(value: Any) -> Any:  # noqa: ANN401  # of JSON
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

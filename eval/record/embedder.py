"""A user's network from pictures to vectors, and whether it takes rebuilt pictures to be of their class."""

import math
from collections.abc import MutableMapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splitleak.config import digest
from splitleak.datasets.images import Images, fitted_pixels
from splitleak.errors import explained
from splitleak.eval.record.schema import Embedded, EmbeddedAt, Verified
from splitleak.eval.record.scoring import pixels
from splitleak.graphs.importing import NetworkConfig, network_digest, network_of
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import OUTPUT, input_shapes
from splitleak.graphs.reading import read_graph
from splitleak.measures.linkage.verification import FALSE_MATCH_RATES, match_threshold, pair_scores


def load_embedder(path: Path, config: NetworkConfig, image_shape: tuple[int, int, int]) -> Network:
    """An ONNX network from pictures in [0, 1] to vectors; ``image_shape`` where its file tells none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no network of pictures, or has operations that are not read.
    """
    model = read_graph(path)
    with explained(path, "a network of pictures that can be computed"):
        told = [shape for shape in input_shapes(model, config.preprocessing.layout).values() if len(shape) == 3]
        free = any(None in shape for shape in told)
        return network_of(model, config, image_shape if free and not config.inputs else None, logits=False)


def vectors(network: Network, pixels: Tensor) -> Tensor:
    """The network's answers ``(N, d)`` to uint8 pictures ``(N, C, H, W)``, which are resized to what it takes."""
    channels, height, width = network.image_shape
    images = fitted_pixels(pixels, (height, width), channels).float() / 255
    made = [answers[OUTPUT] for answers in network.forward(images.numpy(), [OUTPUT], torch.get_num_threads())]
    return torch.from_numpy(np.concatenate(made)).flatten(1)


def embedded(
    network: Network,
    by_class: Tensor,
    private: Images,
    others: Images | None = None,
    cache: MutableMapping[str, tuple[Tensor, Tensor]] | None = None,
) -> Embedded:
    """How often rebuilt pictures are told to be of their class, beside true photographs and those of other people.

    Each is compared with all private photographs of the class, by the cosine of the network's vectors. Above the
    threshold lies at most the false match rate of all pairs of a private photograph with one of somebody else, be that
    private or of ``others``. ``true``, the ceiling, are pairs of two private photographs of the class; ``others``, the
    floor, of one with a photograph of somebody else. A share is the mean over classes, and its error is over these.

    Args:
        network: From `load_embedder`.
        by_class: Rebuilt pictures ``(K, R, C, H, W)`` in [0, 1].
        private: The target's training images, of K classes.
        others: Images of other classes.
        cache: Of the photographs' vectors and people, filled for the next call.

    Returns:
        By false match rate, where there are enough photographs for it.
    """
    classes, per_class = by_class.shape[:2]
    cache, key = {} if cache is None else cache, _identity(network, private, others)
    if key not in cache:
        photographs, people = private.pixels, private.labels
        if others is not None:
            photographs = torch.cat([photographs, others.pixels])
            people = torch.cat([people, classes + others.labels])
        cache[key] = vectors(network, photographs), people
    photographs, people = cache[key]
    own, labels = photographs[: len(private)], private.labels
    true = pair_scores(photographs, own)
    rebuilt = pair_scores(vectors(network, torch.from_numpy(pixels(by_class.flatten(0, 1)))), own)
    asked = torch.arange(classes).repeat_interleave(per_class)[:, None] == labels
    same, itself = people[:, None] == labels, torch.eye(len(people), len(labels), dtype=torch.bool)
    at = {}
    for rate in FALSE_MATCH_RATES:
        threshold = match_threshold(true[~same], rate)
        if threshold is not None:
            at[f"{rate:g}"] = EmbeddedAt(
                rebuilt=_verified(rebuilt > threshold, asked, labels),
                true=_verified(true > threshold, same & ~itself, labels) if bool((same & ~itself).any()) else None,
                others=_verified(true > threshold, ~same, labels),
            )
    return Embedded(embedder=network_digest(network), people=len(people.unique()), photographs=len(people), at=at)


def _identity(network: Network, private: Images, others: Images | None) -> str:
    return digest([network_digest(network), private.hashes(), [] if others is None else others.hashes()])


def _verified(matched: Tensor, counted: Tensor, labels: Tensor) -> Verified:
    """Of ``counted`` pairs ``(N, M)`` the ``matched``, by the class ``(M,)`` of the second."""
    pairs, hits = (
        torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, which.sum(0).double())
        for which in (counted, matched & counted)
    )
    shares = hits[pairs > 0] / pairs[pairs > 0]
    error = float(shares.std()) / math.sqrt(len(shares)) if len(shares) > 1 else None
    return Verified(rate=float(shares.mean()), error=error, pairs=int(pairs.sum()))

"""Whether a rebuilt picture is told to be of its person or thing, by a user's network from pictures to vectors."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitleak.datasets.images import Images, fitted_pixels
from splitleak.errors import explained
from splitleak.eval.record.scoring import load_pictures
from splitleak.graphs.importing import NetworkConfig, network_of
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import OUTPUT, input_shapes
from splitleak.graphs.reading import read_graph
from splitleak.measures.linkage.verification import FALSE_MATCH_RATES, pair_match_rate, pair_scores


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
        return network_of(model, config, image_shape if free and not config.inputs else None)


def rebuilt_verified(network: Network, score: Path, victims: Images) -> dict[str, Any]:
    """How often pictures are told to be of the class that they are of, beside all true pictures of the victims.

    ``rebuilt``: what an attack made of each victim; ``true``, the ceiling: the victims' own pictures; ``others``, the
    floor: pictures of another class in their place. A picture is never compared with the victim's own true one. By
    false match rate, see `pair_match_rate`.

    Args:
        network: From `load_embedder`.
        score: Folder that ``splitleak score`` wrote.
        victims: The images of the split that was attacked, with their labels.

    Raises:
        FileNotFoundError: There are no pictures.
        ValueError: They are not of these victims, no class has two, or one has more than half.
    """
    pictures = load_pictures(score)
    places = torch.from_numpy(np.asarray(pictures["places"])).long() if "places" in pictures else None
    if places is None or len(victims) <= int(places.max()):
        raise ValueError(f"{score}: expected pictures of these {len(victims)} victims, got others")
    own = victims.select(places)
    if not np.array_equal(own.pixels.numpy(), pictures["truth"]):
        raise ValueError(f"{score}: expected pictures of these {len(victims)} victims, got others")
    counts = torch.bincount(own.labels)
    if int(counts.max()) < 2 or 2 * int(counts.max()) > len(own):
        got = counts[counts > 0].tolist()
        raise ValueError(f"expected several pictures of a class, and no class of more than half of them, got {got}")
    truth, rebuilt = vectors(network, own.pixels), vectors(network, torch.from_numpy(pictures["rebuilt"]))
    order = own.labels.argsort(stable=True)
    other = torch.empty_like(order)
    other[order] = order.roll(int(counts.max()))  # of another class: a class is no longer than that
    itself = torch.eye(len(own), dtype=torch.bool)
    probes: Mapping[str, tuple[Tensor, Tensor]] = {
        "true": (truth, ~itself),
        "rebuilt": (rebuilt, ~itself),
        "others": (truth[other], ~itself & ~itself[other]),
    }
    same = own.labels[:, None] == own.labels
    return {
        name: {
            f"{rate:g}": asdict(pair_match_rate(pair_scores(found, truth), same, rate, compared=compared))
            for rate in FALSE_MATCH_RATES
        }
        for name, (found, compared) in probes.items()
    }


def vectors(network: Network, pixels: Tensor) -> Tensor:
    """The network's answers ``(N, d)`` to uint8 pictures ``(N, C, H, W)``, which are resized to what it takes."""
    channels, height, width = network.image_shape
    images = fitted_pixels(pixels, (height, width), channels).float() / 255
    made = [answers[OUTPUT] for answers in network.forward(images.numpy(), [OUTPUT], torch.get_num_threads())]
    return torch.from_numpy(np.concatenate(made)).flatten(1)

"""Whether a rebuilt picture is told to be of its person or thing, by a user's network from pictures to vectors."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitleak.datasets.images import Images
from splitleak.eval.record.embedder import vectors
from splitleak.eval.record.scoring import load_pictures
from splitleak.graphs.network import Network
from splitleak.measures.linkage.verification import FALSE_MATCH_RATES, pair_match_rate, pair_scores


def rebuilt_verified(network: Network, score: Path, victims: Images) -> dict[str, Any]:
    """How often pictures are told to be of the class that they are of, beside all true pictures of the victims.

    ``rebuilt``: what an attack made of each victim; ``true``, the ceiling: the victims' own pictures; ``others``, the
    floor: pictures of another class in their place. A picture is never compared with the victim's own true one. By
    false match rate, see `pair_match_rate`.

    Args:
        network: From pictures to vectors, see `load_embedder`.
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

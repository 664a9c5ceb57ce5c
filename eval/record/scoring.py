"""The judge: the only place where the truth and the guess meet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitleak.datasets.images import Images
from splitleak.measures.pixel import batch_psnr, mse, psnr
from splitleak.measures.ssim import ssim, ssim_zero_padded

METRICS = {"mse": mse, "psnr": psnr, "ssim": ssim, "ssim_zero_padded": ssim_zero_padded}
"""Each takes images and truth ``(N, C, H, W)`` in [0, 1] and gives one value an image ``(N,)``."""


def truth_of(ids: Sequence[str], places: Mapping[str, int], truth: Images) -> Images:
    """The true images in the order of ``ids``; ``places`` is the edge's ledger, id to index in ``truth``.

    An image that was sent several times has one reconstruction, under any of its ids.

    Raises:
        ValueError: An id is not in the ledger (the judge cannot tell what it shows), or a victim has no guess, or more
            than one.
    """
    unknown = [name for name in ids if name not in places]
    guessed = Counter(places[name] for name in ids if name in places)
    missing = sorted(set(places.values()) - set(guessed))
    often = sorted(place for place, count in guessed.items() if count > 1)
    if unknown or missing or often:
        what = f"{len(unknown)} not in the ledger {unknown[:3]}, {len(missing)} without a reconstruction {missing[:3]}"
        streamed = len(set(places.values()))
        what += f", {len(often)} with more than one {often[:3]}"
        raise ValueError(f"expected one reconstruction for each of {streamed} streamed images, but {what}")
    return truth.select(torch.tensor([places[name] for name in ids]))


def score(images: Tensor, truth: Tensor) -> dict[str, Any]:
    """All metrics of ``images`` against ``truth``, both ``(N, C, H, W)`` in [0, 1].

    For each metric its mean, standard deviation over images (n - 1) and the value of every image; PSNR of the whole
    batch, the form of the published tables, is ``batch_psnr``. ``n`` is the number of images.
    """
    values = {name: metric(images, truth) for name, metric in METRICS.items()}
    return {
        "n": len(images),
        **{name: spread(found.double().numpy()) for name, found in values.items()},
        "batch_psnr": float(batch_psnr(images, truth)),
    }


def spread(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean and standard deviation of ``values``, and the values; an image rebuilt exactly counts as 100 dB."""
    finite = np.minimum(values, 100.0)
    deviation = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    return {"mean": float(finite.mean()), "std": deviation, "values": [round(float(value), 6) for value in finite]}


def check_disjoint(public: Sequence[str], truth: Images) -> None:
    """Refuses a score whose attacker owned what it rebuilt.

    Raises:
        ValueError: A hash of ``public`` (`Images.hashes`) is that of an image in ``truth``.
    """
    shared = set(public) & set(truth.hashes())
    if shared:
        raise ValueError(f"expected public images that are not the victims', but {len(shared)} of them are the same")

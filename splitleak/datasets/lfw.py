"""The faces that scikit-image ships: a hundred people of LFW, for an attacker who owns no face of the target's."""

from importlib.resources import as_file, files

import numpy as np
import torch

from splitleak.datasets.images import Dataset, Images
from splitleak.npz import Array, one_header

_FACES = 100  # the rest are crops of backgrounds
_TRAIN = 90


def load_lfw() -> Dataset:
    """90 training and 10 test faces, 25 × 25, grey, all of one class: nothing tells who they are.

    Huang et al., "Labeled faces in the wild", 2007, in the subset of `skimage.data.lfw_subset`, which scikit-image's
    wheel carries. As an attacker's images of another kind (``distinct``).

    Raises:
        FileNotFoundError: This scikit-image does not carry it; nothing is downloaded.
    """
    with as_file(files("skimage") / "data" / "lfw_subset.npy") as path:
        if not path.is_file():
            raise FileNotFoundError(f"expected scikit-image's faces at {path}, but there is no such file")
        with one_header:
            faces: Array = np.load(path, allow_pickle=False)[:_FACES]
    pixels = torch.from_numpy((255 * faces).round().astype(np.uint8))[:, None]
    train, test = (
        Images(part.contiguous(), torch.zeros(len(part), dtype=torch.int64), ("face",))
        for part in (pixels[:_TRAIN], pixels[_TRAIN:])
    )
    return Dataset("lfw", train, test)

"""Features and queries of any source, as arrays: another team's system, or a log. Rows are known by their number."""

from pathlib import Path

from torch import Tensor

from splitleak.attacker.queries import Pairs
from splitleak.datasets.images import Images
from splitleak.datasets.plain import array_names, float_images, float_rows, read_array, unlabelled


def read_features(path: Path) -> tuple[tuple[str, ...], Tensor]:
    """Ids and features ``(N, *shape)`` of an ``.npy`` file, or of ``features`` in an ``.npz`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else than finite floats.
    """
    features = float_rows(read_array(path, "features"), str(path))
    return tuple(map(str, range(len(features)))), features


def own_images(pairs: Path) -> Images | None:
    """The ``images`` beside the features in a file of pairs; None for a record of `splitleak query`, which has none.

    They are rounded to the eight bits of a pixel.

    Raises:
        ValueError: They are no images.
    """
    if not pairs.is_file() or "images" not in array_names(pairs):
        return None
    return unlabelled(float_images(read_array(pairs, "images"), f"{pairs}: images"))


def read_pairs(path: Path) -> Pairs:
    """Queries on record: what `splitleak query` wrote, or ``features`` and ``images`` of somebody else, row for row.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else, or not as many features as images.
    """
    images = own_images(path)
    if images is None:
        return Pairs.load(path)
    if "features" not in array_names(path):
        raise ValueError(f"{path}: expected features beside the images, got {sorted(array_names(path))}")
    features = float_rows(read_array(path, "features"), f"{path}: features")
    if len(features) != len(images):
        raise ValueError(f"{path}: expected as many features as images, got {len(features)} and {len(images)}")
    return Pairs(features.unsqueeze(0), tuple(images.hashes()), "", 1)

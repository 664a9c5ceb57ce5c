"""Images: the built-in ones, torchvision's by name, or a user's own files. All uint8, all in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from splitleak.logs import Report, silent
from splitleak.plugins import is_address
from splitleak.tables import Imported, Table, nearest

if TYPE_CHECKING:
    from splitleak.datasets.images import Dataset, Size

POOLS: Table[str] = Table(
    "pool",
    {
        "train": "of the data set's training images, so that the target has the rest",
        "test": "of its test images, as papers do, so that the target has all training images",
    },
)

DATASETS: Table["Callable[[], Dataset]"] = Table(
    "data set",
    {
        "builtin": Imported("splitleak.datasets.builtin:load_builtin"),
        "lfw": Imported("splitleak.datasets.lfw:load_lfw"),
        "photographs": Imported("splitleak.datasets.photographs:load_photographs"),
    },
    group="splitleak.datasets",
)
"""The sets that need no file and no download, by name: ours, and those of plug-ins."""


def load(
    data: str,
    *,
    data_root: Path | None = None,
    download: bool = False,
    size: "Size | None" = None,
    channels: int | None = None,
    skip_bad: bool = False,
    report: Report = silent,
) -> "Dataset":
    """Loads a set of `DATASETS`, a torchvision set by name (needs ``data_root``), or a path's file or folder.

    ``size``, ``channels``, ``skip_bad`` and ``report`` are those of `load_file`.

    Raises:
        PermissionError: It is a plug-in's, which is not allowed.
        ValueError: It is none of these, or its contents are not images with labels.
        FileNotFoundError: There is nothing at the path, or the named set is not under ``data_root``.
    """
    from splitleak.datasets import torchvision
    from splitleak.datasets.files import load_file
    from splitleak.datasets.images import Dataset

    if data in DATASETS or is_address(data):
        loaded = DATASETS[data]()
        if not isinstance(loaded, Dataset):
            raise ValueError(f"expected a Dataset from {DATASETS.plugin(data)}, got {type(loaded).__name__}")
    elif data in torchvision.NAMES:
        if data_root is None:
            raise ValueError(f"expected --data-root, the folder where torchvision keeps {data}")
        loaded = torchvision.load_torchvision(data, data_root, download=download)
    elif Path(data).exists():
        return load_file(Path(data), size=size, channels=channels, skip_bad=skip_bad, report=report)
    else:
        known = (*DATASETS, *torchvision.NAMES)
        got = f"got {data!r}{nearest(data, known)}"
        raise FileNotFoundError(f"expected one of {', '.join(known)}, or a file or folder of images, {got}")
    return loaded if size is None else loaded.fitted(size, channels or loaded.channels)

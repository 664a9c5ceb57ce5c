"""Images from a user's own files: ``.npz``, a folder of images, or a zip of one."""

import zipfile
from pathlib import Path

from splitleak.datasets.arrays import load_npz
from splitleak.datasets.images import Dataset, Size
from splitleak.datasets.trees import load_folder, load_zip
from splitleak.logs import Report, silent


def load_file(
    path: Path,
    *,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    report: Report = silent,
) -> Dataset:
    """Loads ``path`` as what it is.

    An ``.npz`` holds ``images, labels``; ``x_train, y_train`` and perhaps ``x_test, y_test`` and ``x_val, y_val``; or
    ``train_images, train_labels`` and so on. Pixels are uint8 ``(N, H, W)`` or ``(N, H, W, C)``. Labels are whole
    numbers from 0 or text, ``(N,)`` or ``(N, 1)``. ``classes`` (names) is optional: without it there are as many
    classes as there are different labels, called by them.

    A folder or zip holds ``[train/|val/|test/]<class>/<image>``, or images alone, which are then all of one class,
    ``unlabelled``. `splitleak.datasets.layout` says which other layouts are understood, `splitleak.datasets.images`
    what a validation pool is used as, and `splitleak.datasets.pictures` what is done to an image. Hidden and system
    files are ignored.

    Args:
        path: The file or folder.
        size: What images are brought to as they are read: a side, or height and width. Default: as they are; of a
            folder or zip with images of several sizes, the most frequent one.
        channels: 1 or 3, with ``size``; any other only of an ``.npz`` that has so many. Default: 3 where any image has
            colour.
        skip_bad: Leave out images of a folder or zip that cannot be read; the data set's ``reading`` lists them.
        report: Hears of a folder's or zip's progress, if reading it takes long.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: It is something else, or holds no image; the message says what was expected and what came.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected images at {path}, but there is nothing")
    if path.is_dir():
        return load_folder(path, size=size, channels=channels, skip_bad=skip_bad, report=report)
    if path.suffix.lower() != ".npz" and path.is_file() and zipfile.is_zipfile(path):
        return load_zip(path, size=size, channels=channels, skip_bad=skip_bad, report=report)
    if path.suffix.lower() != ".npz" or not path.is_file():
        raise ValueError(f"{path}: expected an .npz file, a folder or a zip of images, got {_kind(path)}")
    loaded = load_npz(path)
    return loaded if size is None else loaded.fitted(size, channels or loaded.channels)


def _kind(path: Path) -> str:
    """What a file is that is not read."""
    if not path.is_file():
        return "no regular file"
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        return "a zip that is cut short"
    return f"a file that begins with {start.hex()}" if start else "an empty file"

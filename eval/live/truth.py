"""The true pictures behind the requests of a stream, for a page that the judge serves."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from splitleak.datasets.files import load_file

_OF_A_STREAM = re.compile(r"[0-9a-f]{8}-(\d{1,9})(-\d{1,9})?")  # see `stream_images`


def true_picture(images: Path) -> Callable[[str], Tensor | None]:
    """From the id of a request of `splitleak edge --images` to the picture ``(C, H, W)`` in [0, 1] of that file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not one of images.
    """
    pixels = load_file(images).train.pixels

    def picture(name: str) -> Tensor | None:
        found = _OF_A_STREAM.fullmatch(name)
        place = None if found is None else int(found[1])
        return None if place is None or place >= len(pixels) else pixels[place].float() / 255

    return picture

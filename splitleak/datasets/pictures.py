"""One picture of a file: what its header says, and its pixels, upright and in eight bits."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from splitleak.errors import said

READ = frozenset(
    {".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)
"""Suffixes, in lower case, of the pictures that are read."""
NOT_READ = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".exr", ".fits", ".hdr", ".heic", ".heif", ".ico"}
    | {".j2k", ".jp2", ".jxl", ".nef", ".nii", ".pcx", ".pfm", ".psd", ".raf", ".raw", ".svg", ".tga", ".xcf"}
)
"""Suffixes of pictures that are not: such a file is refused by name, not passed over."""
MOST_BYTES = 300_000_000
"""What one file, or one member of a zip unpacked, may hold: a little more than the largest picture."""

SIXTEEN_BITS = "16 bits scaled to 8"
"""What is said to have been done to a picture of 16 bits a channel."""

_FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "DIB", "WEBP", "PPM")  # no other reader of Pillow's is tried
_MOST_PIXELS = 89_478_485  # Pillow's own: 256 MiB in colour
_LARGE = 1_000_000  # pixels above which a picture is made smaller while it is decoded
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})
_REDUCED = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})  # can be made smaller as they are
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


class Header(NamedTuple):
    """What a picture is before it is decoded: (height, width) as it is shown, and whether it has colour."""

    size: tuple[int, int]
    colour: bool


class Picture(NamedTuple):
    """uint8 ``pixels`` (C, H, W), C of 1 for a grey picture and 3 for another, and what was done to get them."""

    pixels: np.ndarray[Any, Any]
    treated: tuple[str, ...]


def read_header(file: IO[bytes]) -> Header:
    """Reads the beginning of ``file``.

    Raises:
        ValueError: It is no picture of a kind that is read, too large, or broken; the message does not name the file.
    """
    with _opened(file) as picture:
        height, width = picture.height, picture.width
        if picture.format != "TIFF" and _orientation(picture) >= 5:  # Pillow has turned a TIFF already
            height, width = width, height
        return Header((height, width), _has_colour(picture))


def decode(data: bytes, least: int | None = None) -> Picture:
    """The pixels of a picture: turned upright (EXIF), its alpha composed on white, 16 bits scaled to 8.

    Float pixels are taken to be in [0, 1]; of an animation or a file of many pages the first picture is taken. A
    picture of more than a million pixels is made smaller while it is decoded, each side by a whole factor that leaves
    at least twice ``least``; None decodes all at full size.

    Raises:
        ValueError: As `read_header`, or pixels have no known range.
    """
    with _opened(BytesIO(data)) as picture:
        if picture.format == "PNG":
            picture.verify()  # the checksums, which decoding does not look at
    with _opened(BytesIO(data)) as picture:
        if picture.width * picture.height <= _LARGE:
            least = None
        if least is not None:
            picture.draft(None, (2 * least, 2 * least))
        picture.load()
        treated = []
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            treated.append("first of several frames or pages taken")
        first = picture.mode in _REDUCED and "transparency" not in picture.info  # the sooner, the less memory
        plain = _in_eight_bits(_smaller(picture, least) if first else picture, treated)
        plain = _smaller(plain, least)
        turn = _UPRIGHT.get(_orientation(picture))
        if turn is not None:
            plain = plain.transpose(turn)
            treated.append("turned upright (EXIF)")
        array = np.asarray(plain)
        return Picture(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)), (*treated,))


@contextlib.contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image.Image]:
    """An opened picture; whatever Pillow raises within is a ValueError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what does not keep a picture from being read
            with Image.open(file, formats=_FORMATS) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    count = picture.width * picture.height
                    raise ValueError(f"expected at most {_MOST_PIXELS:,} pixels, got {count:,}")
                yield picture
    except UnidentifiedImageError:
        raise ValueError(f"it cannot be read as any of {', '.join(_FORMATS)}") from None
    except Image.DecompressionBombError as error:
        claimed = re.search(r"\d+", str(error))
        got = f"{int(claimed[0]):,}" if claimed else "more"
        raise ValueError(f"expected at most {_MOST_PIXELS:,} pixels, got {got}") from None
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise ValueError(said(error)) from None


def _smaller(picture: Image.Image, least: int | None) -> Image.Image:
    """The picture with each side smaller by a whole factor, but not shorter than twice ``least``."""
    if least is None:
        return picture
    across, down = (max(1, side // (2 * least)) for side in picture.size)
    return picture if across == down == 1 else picture.reduce((across, down))


def _orientation(picture: Image.Image) -> int:
    """EXIF's number for how the picture lies; 1, upright, where there is none or none that can be read."""
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # as viewers do: broken EXIF data does not make the picture unreadable
        return 1
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _has_colour(picture: Image.Image) -> bool:
    if picture.mode in ("P", "PA"):
        palette = np.array(picture.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return picture.mode not in _GREY and not picture.mode.startswith("I;16")


def _in_eight_bits(picture: Image.Image, treated: list[str]) -> Image.Image:
    """The picture as "L" or "RGB"; what had to be done goes into ``treated``."""
    target = "RGB" if _has_colour(picture) else "L"
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        values = np.asarray(picture)
        treated.append(SIXTEEN_BITS)
        return Image.fromarray((values // 257 + (values % 257 > 128)).astype(np.uint8))
    if picture.mode == "I":
        raise ValueError("expected 8 or 16 bits a channel or floats, got 32-bit integers, whose range is not known")
    if picture.mode == "F":
        values = np.asarray(picture)
        if not (np.isfinite(values).all() and 0 <= values.min() <= values.max() <= 1):
            raise ValueError(f"expected float pixels in [0, 1], got {values.min():.6g} to {values.max():.6g}")
        treated.append("floats scaled to 8 bits")
        return Image.fromarray((values * 255).round().astype(np.uint8))
    if picture.mode in _ALPHA or "transparency" in picture.info:
        treated.append("alpha composed on white")
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert(target)
    if picture.mode in (target, "1"):
        return picture if picture.mode == target else picture.convert("L")
    return picture.convert("RGB") if target == "RGB" else picture.convert("RGB").convert("L")

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from splitleak.datasets.pictures import decode, read_header

RAMP = np.arange(64 * 48, dtype=np.uint8).reshape(48, 64)
COLOUR = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, kind, **options)
    return file.getvalue()


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


LAID = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", LAID)
def test_a_picture_that_does_not_stand_is_turned_upright(orientation, kind):
    data = encoded(Image.fromarray(COLOUR).transpose(LAID[orientation]), kind, exif=exif(orientation))
    assert np.array_equal(decode(data).pixels, COLOUR.transpose(2, 0, 1))
    assert read_header(io.BytesIO(data)).size == (48, 64)


def test_an_orientation_that_is_none_and_broken_exif_leave_the_picture_as_it_lies():
    for data in (encoded(COLOUR, exif=exif(9)), encoded(COLOUR, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")):
        assert decode(data).pixels.shape == (3, 48, 64)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_the_whole_range(kind):
    ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    found = decode(encoded(ramp, kind))
    assert np.array_equal(found.pixels[0], (ramp / 257).round().astype(np.uint8))
    assert found.treated == ("16 bits scaled to 8",)
    assert not read_header(io.BytesIO(encoded(ramp, kind))).colour


def test_sixteen_bits_in_colour_are_scaled_too():
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    row = np.linspace(0, 65535, 64).astype(">u2").repeat(3).tobytes()
    header = struct.pack(">IIBBBBB", 64, 1, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    )
    assert np.abs(decode(data).pixels[0, 0] - np.linspace(0, 255, 64)).max() <= 1


def test_floats_in_0_to_1_are_scaled_and_others_refused():
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(decode(encoded(ramp, "TIFF")).pixels[0], (ramp * 255).round())
    for wrong in (ramp * 255, ramp - 1, ramp * np.nan, np.full((8, 8), np.inf, np.float32)):
        with pytest.raises(ValueError, match=r"float pixels in \[0, 1\]"):
            decode(encoded(wrong, "TIFF"))
    with pytest.raises(ValueError, match="32-bit integers"):
        decode(encoded(np.full((4, 4), 70000, np.int32), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composed_on_white(mode):
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.putalpha(Image.fromarray(np.where(RAMP < 128, 0, 255).astype(np.uint8)))
    found = decode(encoded(picture))
    opaque = np.asarray(Image.fromarray(COLOUR).convert(mode[:-1])).reshape(48, 64, -1).transpose(2, 0, 1)
    assert np.array_equal(found.pixels, np.where(RAMP < 128, 255, opaque))
    assert found.treated == ("alpha composed on white",)


def test_a_transparent_colour_of_a_palette_is_white():
    paletted = Image.new("P", (2, 1))
    paletted.putpalette([200, 10, 10, 10, 200, 10])
    paletted.putdata([0, 1])
    found = decode(encoded(paletted, transparency=0))
    assert found.pixels[:, 0].T.tolist() == [[255, 255, 255], [10, 200, 10]]


def test_palettes_cmyk_and_one_bit_are_what_they_look_like():
    assert decode(encoded(Image.fromarray(COLOUR).quantize(256), "GIF")).pixels.shape[0] == 3
    assert decode(encoded(RAMP, "GIF")).pixels.shape[0] == 1
    assert np.array_equal(decode(encoded(RAMP, "GIF")).pixels[0], RAMP)
    cyan = decode(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG")).pixels[:, 0, 0].astype(int)
    assert np.abs(cyan - [0, 255, 255]).max() < 10
    assert sorted(np.unique(decode(encoded(Image.fromarray(RAMP > 99))).pixels)) == [0, 255]


def test_the_first_of_several_frames_is_taken_and_told():
    frames = [Image.fromarray(COLOUR + np.uint8(each)) for each in (0, 50)]
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert np.array_equal(found.pixels, COLOUR.transpose(2, 0, 1))
        assert found.treated == ("first of several frames or pages taken",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_large_picture_is_made_smaller_while_it_is_decoded(kind):
    smooth = np.linspace(0, 255, 1600).round().astype(np.uint8)[None].repeat(1200, 0)
    found = decode(encoded(smooth, kind), least=32)
    assert 64 <= min(found.pixels.shape[1:]) <= 200
    row = found.pixels[0, 0].astype(int)
    assert np.abs(row - np.linspace(0, 255, len(row))).max() <= 4
    assert decode(encoded(smooth, kind)).pixels.shape == (1, 1200, 1600)


def test_a_large_picture_is_made_smaller_along_each_side():
    data = encoded(np.zeros((9, 200_000), np.uint8))
    assert decode(data, least=8).pixels.shape == (1, 9, 16)


def damaged(data, at):
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def many_pixels(width, height):
    data = bytearray(encoded(RAMP))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def long_text():
    told = PngImagePlugin.PngInfo()
    told.add_text("k", "x" * 2_000_000, zip=True)
    return encoded(RAMP, pnginfo=told)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as any of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "cannot be read"),  # would run Ghostscript
        (many_pixels(100_000, 100_000), r"at most 89,478,485 pixels, got 10,000,000,000"),
        (many_pixels(10_000, 10_000), r"at most 89,478,485 pixels, got 100,000,000"),
        (long_text(), "MAX_TEXT_CHUNK"),
        (encoded(COLOUR)[:2000], "(?i)truncated"),
        (encoded(COLOUR, "JPEG")[:900], "truncated|Truncated"),
        (damaged(encoded(COLOUR), 2000), "checksum|broken"),
        (damaged(encoded(COLOUR), -20), "checksum|broken"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_one_line(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        decode(data)
    assert "\n" not in str(caught.value)

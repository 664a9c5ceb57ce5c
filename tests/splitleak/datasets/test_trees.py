import io
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from splitleak.datasets import trees
from splitleak.datasets.files import load_file

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PNG = [encoded(pixels) for pixels in PIXELS]
PETS = {f"{'cat' if place % 2 else 'dog'}/{place}.png": data for place, data in enumerate(PNG[:6])}


@pytest.fixture(params=["folder", "zip"])
def tree(request, tmp_path):
    """A function that makes a folder or a zip of files, by name."""

    def made(files):
        if request.param == "zip":
            path = tmp_path / "set.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            return path
        for name, data in files.items():
            place = tmp_path / "set" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return tmp_path / "set"

    return made


def labelled(images):
    return sorted(images.classes[label] for label in images.labels)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "cat/._0.png",
            ".ipynb_checkpoints/0.png",
            "__MACOSX/cat/._0.png",
            "cat/.DS_Store",
            "Thumbs.db",
            "desktop.ini",
        ),
        *("cat/thumbs.DB", "cat/@eaDir/0.png", "$RECYCLE.BIN/0.png", ".git/0.png", "cat/~$0.png", "lost+found/0.png"),
    ],
)
def test_hidden_and_system_files_are_ignored_and_counted(tree, name):
    found = load_file(tree({**PETS, name: PNG[7]}))
    assert found.classes == ("cat", "dog")
    assert len(found.train) == 6
    assert [len(names) for names in found.reading.ignored.values()] == [1]


def test_a_validation_pool_is_the_test_pool_or_unused_and_never_training(tree):
    pools = {
        f"{pool}/{name}": PNG[at] for at, (pool, name) in enumerate((p, n) for p in ("train", "val") for n in PETS)
    }
    found = load_file(tree(pools))
    assert (len(found.train), len(found.test)) == (6, 6)
    assert found.reading.pools == {"train": "train", "val": "test"}
    found = load_file(tree({**pools, "test/cat/1.png": PNG[11]}))
    assert (len(found.train), len(found.test)) == (6, 1)
    assert found.reading.pools == {"train": "train", "val": "nothing", "test": "test"}


def test_pools_without_one_for_training_are_refused(tree):
    with pytest.raises(ValueError, match="expected a pool for training, got test and val"):
        load_file(tree({"val/cat/0.png": PNG[0], "test/cat/1.png": PNG[1]}))


def test_the_layout_of_tiny_imagenet_is_understood(tree):
    files = {f"tiny/train/n{at % 2}/images/n{at % 2}_{at}.JPEG": encoded(PIXELS[at], "JPEG") for at in range(4)}
    files |= {f"tiny/train/n{at}/n{at}_boxes.txt": b"n0_0.JPEG\t0\t0\t9\t9\n" for at in range(2)}
    files |= {f"tiny/val/images/val_{at}.JPEG": encoded(PIXELS[4 + at], "JPEG") for at in range(2)}
    files |= {"tiny/val/val_annotations.txt": b"val_0.JPEG\tn1\t0\t0\t9\t9\r\nval_1.JPEG\tn0\t0\t0\t9\t9\r\n"}
    files |= {"tiny/test/images/test_0.JPEG": encoded(PIXELS[6], "JPEG"), "tiny/wnids.txt": b"n0\nn1\n"}
    found = load_file(tree(files))
    assert found.classes == ("n0", "n1")
    assert labelled(found.train) == ["n0", "n0", "n1", "n1"]
    assert found.test.labels.tolist() == [1, 0]
    assert found.reading.ignored["images without a class"] == ("tiny/test/images/test_0.JPEG",)
    with pytest.raises(ValueError, match=r"val_annotations.txt, got a line without a tab"):
        load_file(tree({**files, "tiny/val/val_annotations.txt": b"val_0.JPEG n1\n"}))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG"])
@pytest.mark.parametrize("upper", [False, True])
def test_a_class_in_any_format_is_read(tree, kind, upper):
    suffix = {"TIFF": "tif", "JPEG": "jpg"}.get(kind, kind.lower())
    name = f"bird/0.{suffix.upper() if upper else suffix}"
    assert load_file(tree({**PETS, name: encoded(PIXELS[7], kind)})).classes == ("bird", "cat", "dog")


@pytest.mark.parametrize("name", ["bird/0.heic", "bird/0.AVIF", "bird/0.npy", "bird/0", "bird/deep/0.dat"])
def test_a_class_that_cannot_be_read_is_refused_by_name_or_listed_but_never_vanishes(tree, name):
    path = tree({**PETS, name: b"x"})
    with pytest.raises(ValueError, match="bird"):
        load_file(path)
    found = load_file(path, skip_bad=True)
    assert "bird" in found.reading.skipped[0][0]


def test_texts_and_empty_folders_are_told(tmp_path, tree):
    path = tree({**PETS, "readme.md": b"x", "annotations/all.xml": b"x"})
    if path.is_dir():
        (path / "bird").mkdir()
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.mkdir("bird")
    told = load_file(path).reading.ignored
    assert told["folders without images"] == ("annotations", "bird")
    assert set(told["files that are no images"]) == {"readme.md", "annotations/all.xml"}


def test_colour_and_size_are_decided_by_all_images_and_told(tree):
    files = {**PETS, "cat/0.png": encoded(PIXELS[7, ..., 0]), "cat/00.png": encoded(PIXELS[8, :1, :1])}
    found = load_file(tree(files))
    assert found.train.pixels.shape == (8, 3, 9, 9)
    assert np.array_equal(found.train.pixels[0].numpy(), PIXELS[7, ..., 0][None].repeat(3, 0))
    assert found.reading.notes == (
        "1 of 8 images are grey, the others in colour",
        "images of 2 sizes, 1 × 1 to 9 × 9, all made 9 × 9",
    )
    assert load_file(tree(files), size=12, channels=1).train.pixels.shape == (8, 1, 12, 12)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a", ""),
        (PNG[0][:150], "runcated"),
        (PNG[0][:60] + b"\0\0" + PNG[0][62:], "broken|checksum"),
    ],
)
def test_a_broken_image_is_named_and_with_skip_bad_left_out_and_listed(tree, data, reason):
    path = tree({**PETS, "cat/bad.png": data})
    with pytest.raises(ValueError, match=rf"{path}: expected an image at cat/bad.png, but .*({reason})") as caught:
        load_file(path)
    assert "\n" not in str(caught.value)
    found = load_file(path, skip_bad=True)
    assert len(found.train) == 6
    assert [name for name, _ in found.reading.skipped] == ["cat/bad.png"]


@pytest.mark.parametrize(("largest", "told"), [(4095, True), (65535, False)])
def test_pictures_of_twelve_bits_in_files_of_sixteen_are_pointed_out(tree, largest, told):
    ramp = np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8)
    found = load_file(tree({f"cat/{index}.png": encoded(ramp) for index in range(3)}))
    assert ("no pixel is above 16 of 255: are these 12 bits, or fewer, in files of 16?" in found.reading.notes) == told


def test_a_class_of_which_nothing_can_be_read_is_told_and_a_set_of_which_nothing_can_refused(tree):
    found = load_file(tree({**PETS, "bird/0.png": b"", "frog/0.png": PNG[0][:150]}), skip_bad=True)
    assert found.classes == ("cat", "dog")
    assert "no image could be read of bird, frog" in found.reading.notes


def test_a_set_of_which_nothing_can_be_read_is_refused(tree):
    path = tree({"bird/0.png": b"", "bird/1.heic": b"x", "frog/0.png": PNG[0][:150]})
    with pytest.raises(ValueError, match=r"expected images that can be read, got none; the first, bird/1\.heic"):
        load_file(path, skip_bad=True)


def test_names_are_one_line_of_text(tree):
    found = load_file(tree({"caf\u0065\u0301/0.png": PNG[0], "a\x1b[31m\nb/1.png": PNG[1]}))
    assert found.classes == ("a\\x1b[31m\\nb", "caf\u00e9")


def test_links_are_followed_but_not_in_circles(tmp_path):
    for name in ("real/cat", "set/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(PNG[len(name)])
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "real" / "cat")
    (tmp_path / "set" / "dog" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "self").symlink_to("self")
    found = load_file(tmp_path / "set")
    assert found.classes == ("cat", "dog")
    assert found.reading.ignored["links to a folder above"] == ("dog/up",)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "0.png").write_bytes(PNG[0])
    os.mkfifo(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set" / "cat" / "2.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"cat/1\.png, but it is no regular file"):
        load_file(tmp_path / "set")
    assert len(load_file(tmp_path / "set", skip_bad=True).reading.skipped) == 2


def test_a_zip_by_windows_and_one_with_odd_paths_keep_their_classes(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for at, name in enumerate(("s\\cat\\0.png", "s\\dog\\1.png", "/s/./cat//2.png", "../s/dog/3.png")):
            archive.writestr(zipfile.ZipInfo(name), PNG[at])
    assert labelled(load_file(path).train) == ["cat", "cat", "dog", "dog"]


def patched(path, name, at, values):
    """Changes the central directory's entry of a member."""
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    data[start + at : start + at + len(values)] = values
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "values", "reason"),
    [
        (16, b"\0\0\0\0", "CRC"),
        (8, b"\x01\0", "encrypted"),
        (10, struct.pack("<H", 99), "compression"),
        (24, struct.pack("<I", 2**31), "at most 300,000,000 bytes, got 2,147,483,648 when unpacked"),
        (42, b"\0\0\xff\0", ""),
    ],
)
def test_a_damaged_member_of_a_zip_is_named_and_can_be_skipped(tmp_path, at, values, reason):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**PETS, "cat/bad.png": PNG[7]}.items():
            archive.writestr(name, data)
    patched(path, "cat/bad.png", at, values)
    with pytest.raises(ValueError, match=f"{path}: expected an image at cat/bad.png, but .*{reason}"):
        load_file(path)
    assert len(load_file(path, skip_bad=True).train) == 6


def test_a_photograph_is_made_small_as_it_is_read(tree, monkeypatch):
    asked, decode = [], trees.decode
    monkeypatch.setattr(trees, "decode", lambda data, least: asked.append(least) or decode(data, least))
    large = np.zeros((1200, 1600, 3), np.uint8)
    found = load_file(tree({**PETS, "cat/large.jpg": encoded(large, "JPEG")}), size=8)
    assert found.train.pixels.shape == (7, 3, 8, 8)
    assert asked == [8] * 7


def test_long_reading_is_reported_and_short_is_not(tree, monkeypatch):
    heard = []
    path = tree(PETS)
    load_file(path, report=lambda *each: heard.append(each))
    assert not heard
    monkeypatch.setattr(trees, "_QUIET_S", -1.0)
    load_file(path, report=lambda *each: heard.append(each))
    assert heard[-1] == ("read train", 6, 6, {})


_GROWTH = """
import resource, sys
from pathlib import Path
from splitleak.datasets.files import load_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert load_file(Path(sys.argv[1]), size=32).train.pixels.shape == (int(sys.argv[2]), 3, 32, 32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_twelve_photographs_of_a_phone_take_less_than_four_decoded_ones(tmp_path):
    photograph = encoded(np.full((3000, 4000, 3), 90, np.uint8), "JPEG")
    (tmp_path / "cat").mkdir()
    for at in range(12):
        (tmp_path / "cat" / f"{at}.jpg").write_bytes(photograph)
    assert _growth(tmp_path, 12) < 4 * 3000 * 4000 * 3


@pytest.mark.slow
def test_photographs_are_let_go_as_they_are_read_however_many_there_are(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    photograph = encoded(np.kron(picture, np.ones((8, 8, 1), np.uint8)), "JPEG")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.jpg").write_bytes(photograph)
    for at in range(1, 100):
        (tmp_path / "cat" / f"{at}.jpg").hardlink_to(tmp_path / "cat" / "0.jpg")
    assert _growth(tmp_path, 100) < 100 * 768 * 1024 * 3 / 4  # decoded, they are 236 MB


def _growth(folder, count):
    """Bytes that a process of its own takes to read a folder of photographs."""
    command = [sys.executable, "-c", _GROWTH, folder, str(count)]
    return 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

import os
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from splitleak.datasets.files import load_file
from tests.bench.fuzz_files import READERS, faults
from tests.bench.fuzz_folders import FOLDERS

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "pets"
    for index, pixels in enumerate(PIXELS):
        path = folder / ("test" if index == 5 else "train") / ("cat" if index % 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def test_a_folder_and_its_zip_load_alike(tree, tmp_path):
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in tree.rglob("*.png"):
            file.write(path, path.relative_to(tree).as_posix())
    for source in (tree, archive):
        loaded = load_file(source)
        assert loaded.classes == ("cat", "dog")
        assert loaded.test is not None
        assert np.array_equal(loaded.test.pixels[0].permute(1, 2, 0).numpy(), PIXELS[5])
        assert sorted(loaded.train.labels.tolist()) == [0, 0, 1, 1, 1]


def test_npz_of_train_and_test_loads_grey_and_colour(tmp_path):
    path = tmp_path / "data.npz"
    labels = np.arange(6)
    np.savez(path, x_train=PIXELS, y_train=labels, x_test=PIXELS[:2], y_test=labels[:2])
    assert load_file(path).train.pixels.shape == (6, 3, 9, 9)
    np.savez(path, images=PIXELS[..., 0], labels=labels)
    assert load_file(path).train.pixels.shape == (6, 1, 9, 9)
    assert load_file(path).test is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS.astype(np.float32), "labels": np.arange(6)}, "uint8"),
        ({"images": PIXELS, "labels": np.arange(5)}, "6 integer labels"),
        ({"pictures": PIXELS}, "got \\['pictures'\\]"),
        ({"images": np.array([object()]), "labels": np.arange(1)}, "plain arrays"),
    ],
)
def test_an_npz_that_does_not_fit_says_what_was_expected(tmp_path, arrays, message):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        load_file(path)


def test_nothing_and_no_images_are_different_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is nothing"):
        load_file(tmp_path / "absent")
    with pytest.raises(ValueError, match="found none"):
        load_file(tmp_path)


@given(st.binary(max_size=300))
def test_any_bytes_named_npz_give_a_value_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="expected"):
        load_file(path)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_gives_a_value_or_one_line_that_names_it(tmp_path, reader):
    assert not list(faults(reader, 30 if reader in FOLDERS else 150, 16, tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "got"),
    [
        ("data.tar.gz", b"\x1f\x8b\x08\x00", "a file that begins with 1f8b0800"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0", "a file that begins with 00000803"),
        ("cat.png", b"\x89PNG", "a file that begins with 89504e47"),
        ("empty.zip", b"", "an empty file"),
        ("cut.zip", b"PK\x03\x04abc", "a zip that is cut short"),
    ],
)
def test_another_kind_of_file_is_refused_by_name(tmp_path, name, data, got):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: expected an .npz file, a folder or a zip of images, got {got}"):
        load_file(tmp_path / name)


def test_an_array_without_a_name_is_no_npz(tmp_path):
    np.save(tmp_path / "data.npy", PIXELS)
    (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=r"data\.npz: expected .* an \.npy file, of one array without a name"):
        load_file(tmp_path / "data.npz")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=r"data\.npz: expected an \.npz file"):
        load_file(tmp_path / "data.npz")


def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path):
    with (tmp_path / "DATA.NPZ").open("wb") as file:
        np.savez(file, images=PIXELS, labels=np.arange(6))
    assert len(load_file(tmp_path / "DATA.NPZ", size=12, channels=1).train) == 6
    assert load_file(tmp_path / "DATA.NPZ", size=12).train.pixels.shape == (6, 3, 12, 12)

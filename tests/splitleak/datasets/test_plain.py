"""Arrays of any source: found by name, read as floats or images, or refused in one line."""

import re

import numpy as np
import pytest
import torch

from splitleak.datasets.plain import array_names, float_images, float_rows, read_array, read_images, unlabelled

ROWS = np.random.default_rng(0).random((4, 3, 2), np.float32)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 1, 5, 6), np.uint8)


def test_an_array_is_found_in_a_file_of_one_or_by_its_name(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    np.savez(tmp_path / "one.npz", anything=ROWS)
    np.savez(tmp_path / "two.npz", other=ROWS + 1, features=ROWS)
    for name in ("a.npy", "one.npz", "two.npz"):
        assert np.array_equal(read_array(tmp_path / name, "features"), ROWS)
    assert array_names(tmp_path / "two.npz") == {"other", "features"}
    assert array_names(tmp_path / "a.npy") == set()
    with pytest.raises(ValueError, match=r"two.npz: expected an array images, got \['features', 'other'\]"):
        read_array(tmp_path / "two.npz", "images")


@pytest.mark.parametrize("name", ["objects.npy", "objects.npz", "text.npy", "short.npy"])
def test_what_is_no_plain_array_is_one_line_and_runs_nothing(tmp_path, name):
    path = tmp_path / name
    if name == "text.npy":
        path.write_text("not an array")
    elif name == "short.npy":
        np.save(path, np.zeros(100))
        path.write_bytes(path.read_bytes()[:200])
    else:
        save = np.save if name.endswith("npy") else np.savez
        save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=f"{name}: expected .*plain arrays") as error:
        read_array(path, "features")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy"):
        read_array(tmp_path / "gone.npy")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((2, 3), np.int32), "int32 (2, 3)"),
        (np.zeros(3, np.float32), "float32 (3,)"),
        (np.zeros((0, 3), np.float32), "(0, 3)"),
        (np.array([[1.0, np.nan]]), "1 of 2 values that are NaN"),
        (np.array([[1.0, 1e300]]), "1 of 2 values"),
        (np.zeros((2, 3), np.complex64), "complex64"),
    ],
)
def test_what_are_no_floats_is_said(values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        float_rows(values, "x")


def test_floats_of_any_width_are_read():
    for dtype in (np.float16, np.float32, np.float64):
        rows = float_rows(ROWS.astype(dtype), "x")
        assert rows.dtype == torch.float32
        assert torch.allclose(rows, torch.from_numpy(ROWS), atol=1e-3)


def test_images_come_as_bytes_or_floats_and_channels_first_or_last():
    expected = torch.from_numpy(PICTURES).float() / 255
    for given in (PICTURES, PICTURES / 255, PICTURES.transpose(0, 2, 3, 1), PICTURES[:, 0]):
        assert torch.allclose(float_images(given, "x"), expected)
    assert torch.equal(unlabelled(float_images(PICTURES / 255, "x")).pixels, torch.from_numpy(PICTURES))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (PICTURES.astype(np.float32), "that are NaN or outside"),
        (np.full((1, 1, 2, 2), np.nan), "4 of 4 values"),
        (PICTURES.astype(np.int64), "int64"),
        (np.zeros((2, 3)), "(2, 3)"),
    ],
)
def test_what_are_no_images_is_said(values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        float_images(values, "x")


def test_true_images_are_an_array_or_what_the_other_commands_read(tmp_path, small_splits):
    small_splits.save(tmp_path)
    assert torch.equal(read_images(tmp_path / "victims.npz"), small_splits.victims.floats())
    np.savez(tmp_path / "plain.npz", images=PICTURES)
    np.save(tmp_path / "plain.npy", PICTURES)
    for name in ("plain.npz", "plain.npy"):
        assert torch.equal(read_images(tmp_path / name), torch.from_numpy(PICTURES).float() / 255)

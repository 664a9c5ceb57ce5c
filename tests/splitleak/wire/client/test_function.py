"""A function in the place of a service: asked in batches, checked, and named where it fails."""

import sys

import numpy as np
import pytest

from splitleak.wire.client.function import FunctionClient

IMAGES = np.random.default_rng(0).random((70, 1, 4, 4), np.float32)
CODE = """
import numpy as np
import torch
sizes = []
def features(images):
    assert images.dtype == np.float32
    sizes.append(len(images))
    kept = images[:, :, ::2].astype(np.float64)
    images[:] = 7
    return kept
def tensor(images): return torch.from_numpy(images).flatten(1)[:, :3].requires_grad_()
def scores(images): return [[0.25, 0.75]] * len(images)
def fails(images): raise KeyError("no\\nservice")
def short(images): return images[1:]
def flat(images): return images.sum((1, 2, 3))
def text(images): return ["x"] * len(images)
def nan(images): return images * np.nan
def ragged(images): return [[1], [1, 2]]
def changing(images): return np.ones((len(images), len(images)))
def late(images):
    import of_user_late
    return of_user_late.answer(images)
number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_user_functions.py").write_text(CODE)
    (tmp_path / "of_user_late.py").write_text("def answer(images): return images")
    yield
    for name in ("of_user_functions", "of_user_late"):
        sys.modules.pop(name, None)


def answered(name, images=IMAGES, **options):
    with FunctionClient(f"of_user_functions:{name}", **options) as client:
        return client.predict(images)


def test_rows_of_any_shape_are_asked_for_in_batches_and_images_stay_as_they_are():
    before = IMAGES.copy()
    rows = answered("features")
    assert rows.dtype == np.float32
    assert np.array_equal(rows, before[:, :, ::2])
    assert np.array_equal(IMAGES, before)
    assert sys.modules["of_user_functions"].sizes == [32, 32, 6]


def test_tensors_and_lists_are_taken_and_modules_beside_it_are_found_late():
    assert answered("tensor").shape == (70, 3)
    assert answered("scores").shape == (70, 2)
    assert answered("late").shape == IMAGES.shape


def test_scores_are_read_as_those_of_a_service():
    assert np.allclose(answered("scores", scores="logits").sum(1), 1)
    with pytest.raises(ValueError, match=r"of_user_functions:features: expected scores \(32, K\)"):
        answered("features", scores="auto")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "of_user_functions:fails failed for 32 images: KeyError: 'no\\\\nservice'"),
        ("short", "a row an image, got float32 (31, 1, 4, 4)"),
        ("flat", "got float32 (32,)"),
        ("text", "got <U1 (32,)"),
        ("nan", "got 512 that are not finite"),
        ("ragged", "of_user_functions:ragged failed"),
        ("changing", "expected rows of shape (32,), got (6,)"),
    ],
)
def test_what_it_does_wrong_is_one_line_that_names_it(name, said):
    with pytest.raises(RuntimeError) as error:
        answered(name)
    assert said.replace("\\\\", "\\") in str(error.value)
    assert "of_user_functions" in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_another_shape_than_asked_for_are_refused():
    with pytest.raises(RuntimeError, match=r"expected rows of shape \(2,\), got \(3,\)"):
        answered("tensor", shape=(2,))


@pytest.mark.parametrize("name", ["number", "gone"])
def test_what_is_no_function_is_refused_on_entry(name):
    with pytest.raises(ValueError, match=f"expected a function of images at of_user_functions:{name}"):
        answered(name)


def test_one_request_says_what_it_cost():
    with FunctionClient("of_user_functions:scores", scores="auto") as client:
        answer = client.ask(IMAGES[:2], "id")
    assert (answer.request_id, answer.sent_bytes, answer.output.shape) == ("id", IMAGES[:2].nbytes, (2, 2))

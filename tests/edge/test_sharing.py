"""Victims of a real service: each image is asked once, and what is published says nothing of its place."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from splitleak.cli import app
from splitleak.cloud.policy import PolicyConfig
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.datasets.files import load_file
from splitleak.edge.ledger import Ledger, images_digest
from splitleak.edge.sharing import SHARED, SharingConfig, share_predictions
from splitleak.measures.scores import truncate
from splitleak.outputs import claimed
from splitleak.wire.files.captures import inference_requests, read
from splitleak.wire.files.shared import SharedScores

LABELS = np.arange(9) % 3


class Whole:
    """The mean of each row of pixels is a logit."""

    name, input_shape, classes, properties = "toy", (1, 3, 3), 3, {}

    def predict(self, images):
        return 6 * images.mean(3).reshape(len(images), 3)


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 3), np.uint8)
    np.savez(tmp_path / "victims.npz", images=pixels, labels=LABELS, classes=np.array(["a", "b", "c"]))
    return tmp_path / "victims.npz"


def expected(images):
    with np.load(images) as file:
        return torch.from_numpy(Whole().predict(file["images"][:, None].astype(np.float32) / 255)).softmax(1)


def share(images, out, *, share=(0,), force=False, model=None, **settings):
    with cloud(CloudConfig(**settings), model or Whole()) as port:
        return share_predictions(SharingConfig(service=f"127.0.0.1:{port}", share=share), images, out, force=force)


def by_place(out, name):
    shared, places = SharedScores.load(out / name), Ledger.read(out / "ledger.json").places
    order = np.argsort([places[each] for each in shared.ids])
    return shared, torch.from_numpy(shared.scores[order])


def test_each_victim_publishes_its_highest_scores_for_each_share(images, tmp_path):
    made = share(images, tmp_path / "out", share=(0, 1, 2))
    assert made["shared"] == ["shared-all.npz", "shared-1.npz", "shared-2.npz"]
    for name, m in (("shared-all.npz", None), ("shared-1.npz", 1), ("shared-2.npz", 2)):
        shared, scores = by_place(tmp_path / "out", name)
        assert (shared.m, shared.model, len(shared.ids)) == (m, "toy", 9)
        torch.testing.assert_close(scores, truncate(expected(images), m or 3), atol=1e-6, rtol=0)


def test_what_the_victim_leaves_out_comes_on_top_of_the_policy(images, tmp_path):
    share(images, tmp_path / "out", share=(0, 1), policy=PolicyConfig(top=2, rounding=0.5))
    told = truncate((2 * expected(images)).round() / 2, 2)
    assert torch.equal(by_place(tmp_path / "out", "shared-all.npz")[1], told)
    assert torch.equal(by_place(tmp_path / "out", "shared-1.npz")[1], truncate(told, 1))


def test_all_that_is_published_comes_from_one_answer(images, tmp_path):
    share(images, tmp_path / "out", share=(0, 1), policy=PolicyConfig(sigma=0.3))
    shared, one = (by_place(tmp_path / "out", name)[1] for name in ("shared-all.npz", "shared-1.npz"))
    assert torch.equal(truncate(shared, 1), one)


def test_ids_and_order_say_nothing_of_the_place(images, tmp_path):
    for run in ("a", "b"):
        share(images, tmp_path / run, capture=tmp_path / f"{run}.capture")
    first, second = (SharedScores.load(tmp_path / run / "shared-all.npz") for run in "ab")
    assert not set(first.ids) & set(second.ids)
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in first.ids)
    assert first.ids == tuple(sorted(first.ids))
    places = Ledger.read(tmp_path / "a" / "ledger.json").places
    assert sorted(places.values()) == list(range(9))
    assert {name for name, _ in inference_requests(read(tmp_path / "a.capture"))} == set(places)


def test_the_ledger_and_the_counts_are_of_what_was_sent(images, tmp_path):
    made = share(images, tmp_path / "out", share=(1,), policy=PolicyConfig(label_only=True))
    ledger = Ledger.read(tmp_path / "out" / "ledger.json")
    right = expected(images).argmax(1).numpy() == LABELS
    assert [entry.label for entry in ledger.entries] == LABELS.tolist()
    assert {entry.predicted for entry in ledger.entries} <= {0, 1, 2}
    assert made == {
        "folder": str(tmp_path / "out"),
        "model": "toy",
        "classes": 3,
        "requests": 9,
        "shared": ["shared-1.npz"],
        **ledger.summary(),
    }
    assert (made["images"], made["accuracy"]) == (9, pytest.approx(right.mean()))


def test_the_ledger_says_of_which_images_and_which_model_it_is(images, tmp_path, monkeypatch):
    share(images, tmp_path / "plain")
    assert Ledger.read(tmp_path / "plain" / "ledger.json").model is None  # a service that does not announce it
    monkeypatch.setattr(Whole, "properties", {"digest": "abc-def"})
    share(images, tmp_path / "out")
    ledger = Ledger.read(tmp_path / "out" / "ledger.json")
    assert (ledger.images, ledger.model) == (images_digest(load_file(images).train), "abc-def")


@pytest.mark.parametrize(
    ("announced", "labelled"),
    [('["a", "b", "c"]', True), ('["x", "y", "z"]', True), ("[", True), ("7", True), ('["c", "a", "b"]', False)],
)
def test_labels_are_not_held_against_scores_of_the_same_classes_in_another_order(
    images, tmp_path, monkeypatch, announced, labelled
):
    monkeypatch.setattr(Whole, "properties", {"classes": announced})
    assert (share(images, tmp_path / "out")["accuracy"] is not None) == labelled
    assert all((entry.label is not None) == labelled for entry in Ledger.read(tmp_path / "out" / "ledger.json").entries)


def test_scores_of_other_images_are_replaced_with_force_alone(images, tmp_path):
    share(images, tmp_path / "out")
    first = Ledger.read(tmp_path / "out" / "ledger.json")
    share(images, tmp_path / "out")
    second = Ledger.read(tmp_path / "out" / "ledger.json")
    assert second.places.keys() != first.places.keys()
    with np.load(images) as file:
        arrays = dict(file)
    np.savez(images, **{**arrays, "images": arrays["images"][::-1]})
    with pytest.raises(FileExistsError, match="--force replaces it"):
        share(images, tmp_path / "out")
    assert Ledger.read(tmp_path / "out" / "ledger.json") == second
    share(images, tmp_path / "out", force=True)
    assert Ledger.read(tmp_path / "out" / "ledger.json").images != second.images


def test_a_folder_that_another_process_writes_is_told_before_anything_is_asked(images, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "seen.capture"
    with ThreadPoolExecutor(1) as other, claimed(out, SHARED):
        asked = other.submit(share, images, out, capture=kept)
        with pytest.raises(BlockingIOError, match=r"alone in writing .*out"):
            asked.result()
    assert list(read(kept)) == []


def test_images_are_fitted_to_what_the_service_takes(images, tmp_path):
    with np.load(images) as file:
        arrays = dict(file)
    np.savez(images, **{**arrays, "images": np.repeat(np.repeat(arrays["images"], 2, 1), 2, 2)})
    assert share(images, tmp_path / "out")["images"] == 9


@pytest.mark.parametrize(("share_", "said"), [((4,), "expected to keep 1 to 3"), ((-1,), "greater than or equal to 0")])
def test_more_scores_than_there_are_cannot_be_shared_and_nothing_is_written(images, tmp_path, share_, said):
    asked = []

    class Counting(Whole):
        def predict(self, images):
            asked.append(images)
            return super().predict(images)

    with pytest.raises(ValueError, match=said):
        share(images, tmp_path / "out", share=share_, model=Counting())
    assert not (tmp_path / "out").exists()
    assert len(asked) < 2


def test_the_command_passes_on_what_it_is_given(images, tmp_path):
    with cloud(CloudConfig(), Whole()) as port:
        given = ("--service", f"127.0.0.1:{port}", "--model", "toy", "--images", images, "--out", tmp_path / "out")
        arguments = map(str, ("predict", *given, "--share", 0, "--share", 2, "--scores", "logits", "--json"))
        made = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert json.loads(made.stdout)["shared"] == ["shared-all.npz", "shared-2.npz"]
    torch.testing.assert_close(by_place(tmp_path / "out", "shared-all.npz")[1], expected(images).softmax(1))

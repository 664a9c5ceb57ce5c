import json

import pytest
import torch

from splitleak.datasets import load
from splitleak.datasets.images import Dataset, Images
from splitleak.datasets.splits import SplitConfig, Splits, split
from splitleak.eval.record.auxiliary import check_auxiliary, read_auxiliary

NAMES = ("bag", "boot", "coat", "dress", "shirt", "shoe")


def images(count, *, seed, names=NAMES[:3]):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=draw).to(torch.uint8)
    return Images(pixels, torch.arange(count) % len(names), names)


def joined(*parts):
    pixels, labels = (torch.cat([getattr(part, field) for part in parts]) for field in ("pixels", "labels"))
    return Images(pixels, labels, parts[0].classes)


VICTIMS, TRAIN, PUBLIC = images(5, seed=1), images(12, seed=2), images(9, seed=3)
OTHERS = images(9, seed=4, names=NAMES[3:])


def checked(kind, own, dataset="clothes"):
    return check_auxiliary(kind, own, VICTIMS, "clothes", NAMES[:3], dataset, TRAIN)


@pytest.mark.parametrize(
    ("kind", "own", "dataset", "found"),
    [
        ("same", PUBLIC, "clothes", (0, 0, 3)),
        ("generic", OTHERS, "clothes", (0, 0, 0)),
        ("generic", PUBLIC, "other clothes", (0, 0, 0)),
        ("distinct", PUBLIC, "faces", (0, 0, 0)),
        ("training", TRAIN, "clothes", (0, 12, 3)),
        ("training", joined(PUBLIC, TRAIN), "clothes", (0, 12, 3)),
    ],
)
def test_what_a_setting_allows_is_counted(kind, own, dataset, found):
    overlap = checked(kind, own, dataset)
    assert (overlap.victims_images, overlap.training_images, overlap.target_classes) == found


@pytest.mark.parametrize("kind", ["same", "generic", "distinct", "training"])
def test_a_victims_image_is_refused_in_every_setting(kind):
    own = joined(OTHERS if kind == "generic" else TRAIN if kind == "training" else PUBLIC, VICTIMS)
    with pytest.raises(ValueError, match=rf"{kind}.*no image of a victim, got 5 of 5"):
        checked(kind, own, "faces" if kind == "distinct" else "clothes")


@pytest.mark.parametrize("kind", ["same", "generic", "distinct"])
def test_an_image_of_the_targets_training_is_refused_where_it_is_not_declared(kind):
    own = joined(OTHERS if kind == "generic" else PUBLIC, TRAIN.select(torch.tensor([0, 7])))
    with pytest.raises(ValueError, match=r"no image that the target was trained on, got 2 of 12"):
        checked(kind, own, "faces" if kind == "distinct" else "clothes")


@pytest.mark.parametrize(
    ("kind", "own", "dataset", "said"),
    [
        (
            "generic",
            images(9, seed=5, names=NAMES[1:]),
            "clothes",
            "no class of the target, got 2 of its 3: boot, coat",
        ),
        ("distinct", PUBLIC, "clothes", "another data set than the target's, got 'clothes'"),
        ("same", PUBLIC, "faces", "images of 'clothes', got 'faces'"),
        ("same", OTHERS, "clothes", "classes of the target alone, got 3 others: dress, shirt, shoe"),
        ("training", PUBLIC, "clothes", "images that the target was trained on, got none of 12"),
        ("training", TRAIN, "faces", "images of 'clothes', got 'faces'"),
        ("stolen", PUBLIC, "clothes", "auxiliary images of same, generic, distinct, training, got 'stolen'"),
    ],
)
def test_a_declaration_that_is_not_true_is_refused_by_name_and_number(kind, own, dataset, said):
    with pytest.raises(ValueError, match=said):
        checked(kind, own, dataset)


def test_a_class_is_one_that_is_shown_not_one_that_is_named():
    own = Images(OTHERS.pixels, OTHERS.labels + 3, NAMES)
    assert checked("generic", own).target_classes == 0


def test_images_of_another_shape_cannot_be_compared():
    own = Images(PUBLIC.pixels[:, :, :2], PUBLIC.labels, PUBLIC.classes)
    with pytest.raises(ValueError, match="of one shape"):
        checked("same", own)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A split of five of the ten classes of the built-in images, and photographs of a like shape."""
    folder = tmp_path_factory.mktemp("splits")
    small = Dataset("builtin", load("builtin").fitted(8, 1).train.select(torch.arange(0, 7000, 10)), None)
    split(small, SplitConfig(public=50, victims=20, train=100, classes=5)).save(folder / "target")
    other = Dataset("photographs", images(60, seed=9).fitted(8, 1), None)
    split(other, SplitConfig(public=30, victims=1, train=1, test=1)).save(folder / "photographs")
    return folder


def read(folder, kind, path, **changes):
    splits = Splits.load(folder / "target")
    own = Splits.load((folder / path).parent)
    given = {
        "used": getattr(own, (folder / path).stem).hashes(),
        "train": folder / "target" / "train.npz",
        "split": splits.record,
        **changes,
    }
    return read_auxiliary(kind, folder / path, victims=splits.victims, **given)


@pytest.mark.parametrize(
    ("kind", "path", "dataset", "count"),
    [
        ("same", "target/public.npz", "builtin", 50),
        ("generic", "target/generic.npz", "builtin", 50),
        ("training", "target/train.npz", "builtin", 100),
        ("distinct", "photographs/public.npz", "photographs", 30),
    ],
)
def test_the_sets_that_a_split_writes_are_what_they_are_for(folder, kind, path, dataset, count):
    found = read(folder, kind, path)
    assert (found.kind, found.dataset, found.images) == (kind, dataset, count)
    of_target = set(json.loads((folder / "target" / "splits.json").read_text())["classes"])
    assert bool(of_target & set(found.classes)) == (kind in ("same", "training"))
    assert found.checked.training_images == (100 if kind == "training" else 0)
    assert "near copies" in found.checked.how


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("same", "target/generic.npz"),
        ("same", "target/train.npz"),
        ("same", "photographs/public.npz"),
        ("generic", "target/public.npz"),
        ("distinct", "target/generic.npz"),
        ("training", "target/public.npz"),
        ("training", "target/victims.npz"),
    ],
)
def test_one_set_is_not_taken_for_another(folder, kind, path):
    with pytest.raises(ValueError, match=f"auxiliary images declared '{kind}'"):
        read(folder, kind, path)


def test_images_that_the_attack_did_not_use_prove_nothing(folder):
    used = Splits.load(folder / "target").public.hashes()
    with pytest.raises(ValueError, match="expected the 49 images that the attack used, got others"):
        read(folder, "same", "target/public.npz", used=used[1:])


def test_training_images_of_another_target_prove_nothing(folder):
    with pytest.raises(ValueError, match="expected the images that the target was trained on, got others"):
        read(folder, "same", "target/public.npz", train=folder / "photographs" / "train.npz")


def test_a_file_alone_needs_the_name_of_its_data_set(folder, tmp_path):
    public = Splits.load(folder / "photographs").public
    public.save(tmp_path / "mine.npz")
    splits = Splits.load(folder / "target")
    given = (tmp_path / "mine.npz", public.hashes(), splits.victims, folder / "target" / "train.npz", splits.record)
    with pytest.raises(ValueError, match="expected the name of the data set"):
        read_auxiliary("distinct", *given)
    assert read_auxiliary("distinct", *given, dataset="holiday").dataset == "holiday"
    with pytest.raises(ValueError, match="another data set than the target's"):
        read_auxiliary("distinct", *given, dataset="builtin")

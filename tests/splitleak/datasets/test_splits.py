import json
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.config import Config
from splitleak.datasets import load
from splitleak.datasets.images import Dataset, Images
from splitleak.datasets.splits import PARTS, SplitConfig, Splits, split


def grey(count: int, *, start: int = 0) -> Images:
    """Images that all differ: each is a number in base 256."""
    numbers = torch.arange(start, start + count)
    pixels = torch.stack([numbers % 256, numbers // 256], 1).to(torch.uint8).reshape(count, 1, 1, 2)
    return Images(pixels, numbers % 3, ("a", "b", "c"))


def test_no_image_is_in_two_sets():
    splits = split(load("builtin"), SplitConfig())
    hashes = {part: set(getattr(splits, part).hashes()) for part in PARTS}
    assert all(hashes[a].isdisjoint(hashes[b]) for a, b in combinations(PARTS, 2))
    assert [len(getattr(splits, part)) for part in PARTS] == [4800, 2000, 200, 2000]


def test_a_copy_of_an_image_never_reaches_another_set():
    doubled = grey(100).select(torch.arange(100).repeat(2))
    splits = split(Dataset("doubled", doubled, grey(120)), SplitConfig(public=30, victims=20))
    assert sum(len(getattr(splits, part)) for part in PARTS) == 120
    assert len(splits.test) == 20


def of_papers(**counts):
    return SplitConfig.parse({"from": "test", "public": 30, "victims": 20, **counts}, source="test")


def disjoint(*sets):
    hashes = [set(images.hashes()) for images in sets]
    return all(a.isdisjoint(b) for a, b in combinations(hashes, 2))


@pytest.mark.parametrize("stratified", [False, True])
def test_as_in_papers_the_target_has_the_whole_training_pool_and_the_attacker_is_of_the_test_pool(stratified):
    data = Dataset("two pools", grey(200), grey(120, start=150))  # the first 50 of which are in the training pool too
    splits = split(data, of_papers(stratified=stratified))
    assert [len(getattr(splits, part)) for part in PARTS] == [200, 30, 20, 70]
    assert disjoint(splits.train, splits.public, splits.victims)
    assert disjoint(splits.train, splits.test)
    pools = [set(images.hashes()) for images in (data.train, data.test)]
    assert set(splits.train.hashes()) == pools[0]
    assert set(splits.test.hashes()) == pools[1] - pools[0]
    assert {*splits.public.hashes(), *splits.victims.hashes()} < set(splits.test.hashes())


def test_as_in_papers_a_number_of_test_images_is_of_others_and_may_be_the_rest():
    data = Dataset("two pools", grey(200), grey(100, start=1000))
    splits = split(data, of_papers(test=50, train=150))
    assert [len(getattr(splits, part)) for part in PARTS] == [150, 30, 20, 50]
    assert disjoint(*(getattr(splits, part) for part in PARTS))
    for counts in ({"test": 51}, {"public": 81}, {"train": 201}):
        with pytest.raises(ValueError, match="two pools has 300 different ones, 100 of them in its test pool"):
            split(data, of_papers(**counts))


@pytest.mark.parametrize("test", [None, grey(50)])
def test_a_test_pool_to_attack_has_to_be_there(test):
    with pytest.raises(ValueError, match="expected a test pool for victims and public images, but one pool has none"):
        split(Dataset("one pool", grey(200), test), of_papers())


def test_the_pool_is_in_a_document_only_where_it_is_the_test_pool():
    assert "from" not in SplitConfig().document()
    assert of_papers().document()["from"] == "test"
    assert SplitConfig.parse(of_papers().document(), source="test") == of_papers()


def test_the_same_seed_gives_the_same_sets_and_another_seed_others():
    data = Dataset("numbers", grey(100), None)
    first, again, other = (split(data, SplitConfig(seed=s, public=30, victims=20)).record for s in (0, 0, 1))
    assert first == again
    assert first["images"]["victims"] != other["images"]["victims"]


def test_a_set_without_test_images_holds_a_fifth_out():
    splits = split(Dataset("numbers", grey(100), None), SplitConfig(public=30, victims=20))
    assert [len(getattr(splits, part)) for part in PARTS] == [30, 30, 20, 20]


def test_too_few_images_is_an_error_that_says_how_many_there_are():
    with pytest.raises(ValueError, match="numbers has 100 different ones"):
        split(Dataset("numbers", grey(100), None), SplitConfig(public=70, victims=20))


def test_saved_splits_load_as_they_were_and_a_changed_file_is_noticed(tmp_path):
    splits = split(Dataset("numbers", grey(100), None), SplitConfig(public=30, victims=20))
    splits.save(tmp_path)
    loaded = Splits.load(tmp_path)
    assert loaded.record == splits.record
    assert torch.equal(loaded.victims.pixels, splits.victims.pixels)
    splits.public.save(tmp_path / "victims.npz")
    with pytest.raises(ValueError, match="got others"):
        Splits.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "digests"),
    [
        (SplitConfig(), ("901e275cf75e", "8c35dc9a77bd", "ca440f1e6d96", "c61c250634ee")),
        (
            SplitConfig(seed=3, public=300, victims=40, train=600, test=300),
            ("5b6a1a3ff9da", "aec395816993", "6077dacececa", "d751192f76df"),
        ),
    ],
)
def test_splits_of_recorded_results_stay_as_they_were(config, digests):
    record = split(load("builtin"), config).record
    assert tuple(record["images"][part]["digest"] for part in PARTS) == digests
    assert record.keys() == {"dataset", "config", "images"}
    assert record["config"].keys() == {"seed", "public", "victims", "train", "test"}


class Nested(Config):
    split: SplitConfig


def test_settings_that_are_not_used_are_in_no_document_and_change_no_hash():
    assert SplitConfig().digest == "d31f60f777d8"
    assert "classes" not in Nested(split=SplitConfig()).document()["split"]
    used = SplitConfig(classes=4, stratified=True)
    assert used.document() == {**SplitConfig().document(), "classes": 4, "stratified": True}
    assert SplitConfig.parse(used.document(), source="test") == used


def test_a_target_of_some_classes_knows_no_image_of_the_others():
    data = load("builtin")
    splits = split(data, SplitConfig(seed=5, classes=4, public=300, victims=40))
    chosen = [data.classes.index(name) for name in splits.train.classes]
    assert len(set(chosen)) == 4
    assert chosen == sorted(chosen)
    labels = dict(zip(data.train.hashes() + data.test.hashes(), [*data.train.labels, *data.test.labels], strict=True))
    for part in PARTS:
        images = getattr(splits, part)
        assert images.classes == splits.train.classes
        assert [chosen[label] for label in images.labels] == [int(labels[name]) for name in images.hashes()]
    assert len(splits.generic) == 300
    assert set(splits.generic.classes) == set(data.classes) - set(splits.train.classes)
    names = [splits.generic.classes[label] for label in splits.generic.labels]
    assert names == [data.classes[int(labels[name])] for name in splits.generic.hashes()]
    assert splits.record["classes"] == list(splits.train.classes)
    other = split(data, SplitConfig(seed=6, classes=4, public=300, victims=40))
    assert other.train.classes != splits.train.classes


def test_other_classes_images_are_as_many_as_public_or_all_there_are():
    data = Dataset("numbers", grey(90), None)
    counts = [len(split(data, SplitConfig(public=each, victims=2, classes=2)).generic) for each in (20, 40)]
    assert counts == [20, 30]


def test_other_classes_images_can_be_counted_apart_which_changes_no_other_set():
    data = Dataset("numbers", grey(90), None)
    asked = {"public": 20, "victims": 2, "classes": 2}
    plain = split(data, SplitConfig(**asked))
    for wanted, found in ((25, 25), (99, 30)):
        counted = split(data, SplitConfig(**asked, generic=wanted))
        assert len(counted.generic) == found
        assert counted.generic.hashes()[:20] == plain.generic.hashes()
        assert {part: counted.record["images"][part] for part in PARTS} == {
            part: plain.record["images"][part] for part in PARTS
        }
    assert "generic" not in plain.record["config"]
    with pytest.raises(ValueError, match="expected `classes` with `generic`"):
        SplitConfig.parse({"generic": 5}, source="test")


def test_a_picture_of_two_classes_is_not_given_away_by_the_other_one():
    twice = grey(100).select(torch.arange(100).repeat(2))
    data = Dataset("twice", Images(twice.pixels, torch.arange(200) // 50, ("a", "b", "c", "d")), None)
    found = set()
    for seed in range(8):
        splits = split(data, SplitConfig(seed=seed, classes=2, public=20, victims=5))
        hashes = set().union(*(getattr(splits, part).hashes() for part in PARTS))
        assert hashes.isdisjoint(splits.generic.hashes())
        found.add(len(splits.generic))
    assert found == {0, 20}


def test_all_classes_by_number_are_all_classes_and_more_are_refused():
    data = Dataset("numbers", grey(100), None)
    plain, counted = (split(data, SplitConfig(public=30, victims=20, classes=each)) for each in (None, 3))
    assert counted.generic is None
    assert counted.record["images"] == plain.record["images"]
    with pytest.raises(ValueError, match="at most the 3 classes of numbers, got 4"):
        split(data, SplitConfig(public=30, victims=20, classes=4))


def test_splits_of_some_classes_load_as_they_were_and_leave_no_old_file(tmp_path):
    data = Dataset("numbers", grey(100), None)
    splits = split(data, SplitConfig(public=10, victims=5, classes=2))
    splits.save(tmp_path)
    loaded = Splits.load(tmp_path)
    assert loaded.generic.classes == splits.generic.classes
    assert torch.equal(loaded.generic.labels, splits.generic.labels)
    splits.public.save(tmp_path / "generic.npz")
    with pytest.raises(ValueError, match="got others"):
        Splits.load(tmp_path)
    with pytest.raises(FileExistsError, match="--force replaces it"):
        split(data, SplitConfig(public=10, victims=5)).save(tmp_path)
    split(data, SplitConfig(public=10, victims=5)).save(tmp_path, force=True)
    assert not (tmp_path / "generic.npz").exists()
    assert Splits.load(tmp_path).generic is None


def faces(people=40, each=10):
    """Portraits that all differ, in the shape of the ORL set."""
    count = people * each
    pixels = torch.zeros(count, 1, 112, 92, dtype=torch.uint8)
    pixels[:, 0, :, 0] = (torch.arange(count)[:, None] // 256 ** torch.arange(2).repeat(56) % 256).to(torch.uint8)
    labels = torch.arange(count) % people
    return Images(pixels, labels, tuple(map(str, range(people))))


def test_a_stratified_split_of_eight_portraits_a_person_has_everybody_in_every_set():
    everyone = faces()
    data = Dataset("faces", everyone.select(torch.arange(320)), everyone.select(torch.arange(320, 400)))
    splits = split(data, SplitConfig(train=160, public=120, victims=40, test=40, stratified=True))
    counts = [torch.bincount(getattr(splits, part).labels).unique().tolist() for part in PARTS]
    assert counts == [[4], [3], [1], [1]]


@given(
    sizes=st.lists(st.integers(20, 40), min_size=2, max_size=5),
    shares=st.tuples(*(st.integers(1, 20) for _ in range(3))),
    seed=st.integers(0, 3),
)
def test_a_stratified_set_is_within_one_image_of_each_classs_share_and_takes_as_many_as_asked(sizes, shares, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    pool = Images(grey(sum(sizes)).pixels, labels, tuple(map(str, range(len(sizes)))))
    counts = {part: max(12, sum(sizes) * each // 100) for part, each in zip(PARTS[1:], shares, strict=True)}
    splits = split(Dataset("any", pool, None), SplitConfig(seed=seed, stratified=True, **counts))
    left = list(sizes)
    for part in ("test", "victims", "public"):
        found = torch.bincount(getattr(splits, part).labels, minlength=len(sizes)).tolist()
        assert sum(found) == counts[part]
        assert all(abs(got - size * counts[part] / sum(left)) < 1 for got, size in zip(found, left, strict=True))
        left = [size - got for size, got in zip(left, found, strict=True)]
    assert torch.bincount(splits.train.labels, minlength=len(sizes)).tolist() == left


def test_a_stratified_set_too_small_for_every_class_is_refused():
    with pytest.raises(ValueError, match="expected victims with every class, got 2 images, none of a"):
        split(Dataset("numbers", grey(99), None), SplitConfig(public=30, victims=2, stratified=True))


def test_a_summary_tells_classes_duplicates_and_nothing_to_doubt():
    doubled = Dataset("doubled", grey(100).select(torch.arange(100).repeat(2)), grey(120))
    summary = split(doubled, SplitConfig(public=30, victims=20)).summary
    assert summary["classes"] == {"a": 108, "b": 106, "c": 106}
    assert summary["duplicates"] == 200
    assert summary["flags"] == []


def flags(labels, names=("a", "b", "c"), test=None, **counts):
    train = Images(grey(100).pixels, labels, names)
    return split(Dataset("d", train, test), SplitConfig(**{"public": 30, "victims": 20, **counts})).summary["flags"]


def test_sets_on_which_a_target_cannot_be_wrong_are_flagged():
    labels = torch.arange(100) % 3
    assert flags(labels) == []
    assert flags(labels * 0, ("a",)) == ["there is one class only, a: whatever a target answers is right"]
    rare = flags((torch.arange(100) == 0).long())
    assert "of the test images are of one class, a: to answer it always is right" in " ".join(rare)
    one = grey(10, start=500)
    other = Images(one.pixels, one.labels * 0 + 2, one.classes)
    assert flags(labels % 2, test=other) == [
        "100% of the test images are of one class, c: to answer it always is right",
        "no training image is of c: a target cannot learn what has none",
    ]


def test_copies_with_another_class_are_flagged():
    twice = grey(50).select(torch.arange(50).repeat(2))
    data = Dataset("twice", Images(twice.pixels, torch.arange(100) % 3, ("a", "b", "c")), None)
    found = split(data, SplitConfig(public=10, victims=5)).summary
    assert found["flags"] == ["50 duplicates have another class than their first"]


def test_a_test_pool_of_copies_alone_is_replaced_by_a_fifth_and_flagged():
    found = split(Dataset("copies", grey(100), grey(20)), SplitConfig(public=30, victims=20))
    assert [len(getattr(found, part)) for part in PARTS] == [30, 30, 20, 20]
    assert found.summary["flags"] == ["all test images are copies of training images: others are held out"]


def test_the_summary_is_kept_beside_the_record_and_is_no_part_of_it(tmp_path):
    splits = split(Dataset("numbers", grey(100), None), SplitConfig(public=30, victims=20))
    splits.save(tmp_path)
    loaded = Splits.load(tmp_path)
    assert "summary" not in splits.record
    assert (loaded.record, loaded.summary) == (splits.record, splits.summary)
    written = json.loads((tmp_path / "splits.json").read_text())
    assert written == {**splits.record, "summary": splits.summary}
    (tmp_path / "splits.json").write_text(json.dumps(splits.record))  # as they were written before
    assert Splits.load(tmp_path).record == splits.record


@pytest.mark.parametrize(
    "change", ["dataset", "config", "images", ("images", "test"), ("images", "train", "digest"), ()]
)
def test_a_record_that_lacks_something_is_one_line_that_names_it(tmp_path, change):
    split(Dataset("numbers", grey(100), None), SplitConfig(public=30, victims=20)).save(tmp_path)
    path = tmp_path / "splits.json"
    document = json.loads(path.read_text())
    *within, last = (change,) if isinstance(change, str) else change or (None,)
    inner = document
    for key in within:
        inner = inner[key]
    inner.pop(last, None)
    path.write_text(json.dumps(document if change else [1]))
    with pytest.raises(ValueError, match=rf"{path}: expected .*{last or 'table'}") as caught:
        Splits.load(tmp_path)
    assert "\n" not in str(caught.value)

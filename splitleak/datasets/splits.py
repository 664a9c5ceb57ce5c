"""Sets that share no image: the target's training, the attacker's public, the victims', test, and other classes'."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from splitleak.artifacts import write_json, written_folder
from splitleak.config import Config, digest, read_table
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Dataset, Images, listed
from splitleak.outputs import FolderKind
from splitleak.seeding import generator

PARTS = ("train", "public", "victims", "test")
SPLITS = FolderKind("split", "splits.json", tuple(f"{part}.npz" for part in (*PARTS, "generic")))
_ONE_SIDED = 0.95  # share of one class from which a set is flagged


class PoolConfig(Config):
    """Where victims and public images come from: ``from``, which is no name in Python."""

    later: ClassVar[Mapping[str, object]] = {"from": "train"}

    pool: Literal["train", "test"] = Field(
        default="train",
        alias="from",
        description="pool of victims and public images; test, as in papers: the target has the whole training pool",
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self._used({"from" if key == "pool" else key: value for key, value in plain(self).items()})


class SplitConfig(PoolConfig):
    """How many images go where; the same data, seed and counts always give the same sets."""

    later: ClassVar[Mapping[str, object]] = {**PoolConfig.later, "classes": None, "stratified": False, "generic": None}
    seed: int = Field(default=0, ge=0, description="seed of the shuffle")
    public: int = Field(default=2000, ge=1, description="images of the same kind that the attacker owns")
    victims: int = Field(default=200, ge=1, description="images that cross the wire and are attacked")
    train: int | None = Field(default=None, ge=1, description="images the target is trained on; default: all others")
    test: int | None = Field(default=None, ge=1, description="images its accuracy is measured on; default: all")
    classes: int | None = Field(default=None, ge=2, description="classes the target knows, by seed; default: all")
    stratified: bool = Field(default=False, description="draw each set class by class, none without a class")
    generic: int | None = Field(
        default=None, ge=1, description="images of the other classes; default: as many as public"
    )

    @model_validator(mode="after")
    def _has_others(self) -> Self:
        if self.generic is not None and self.classes is None:
            raise ValueError("expected `classes` with `generic`, which is of the other classes")
        return self


@dataclass(frozen=True)
class Splits:
    """The four sets, what there is of other classes (None: the target knows all), and a record of how they came about.

    The record holds data set, config, and of each set its number of images and a digest; with `classes`, the names of
    the target's in the order of its labels. What is trained on the sets is known by it. The summary is for people, and
    for nothing else: classes and their images, pools, files left out, duplicates dropped, what was done to images, and
    ``flags``, which say what makes a result on these sets worth less than it looks.
    """

    train: Images
    public: Images
    victims: Images
    test: Images
    record: dict[str, Any]
    generic: Images | None = None
    summary: dict[str, Any] | None = None

    def save(self, folder: Path, *, force: bool = False) -> None:
        """Writes an ``.npz`` file for each set, ``train.npz`` and so on, and ``splits.json``, all or nothing.

        Raises:
            FileExistsError: ``folder`` is there, and no splits; or, without ``force``, other ones.
        """
        told = {} if self.summary is None else {"summary": self.summary}
        with written_folder(folder, SPLITS, self.record, force=force) as partial:
            for part in (*PARTS, "generic"):
                images: Images | None = getattr(self, part)
                if images is not None:
                    images.save(partial / f"{part}.npz")
            write_json(partial / SPLITS.mark, {**self.record, **told})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: ``folder`` holds no splits.
            ValueError: A file's images are not those that were recorded.
        """
        if not (folder / "splits.json").is_file():
            raise FileNotFoundError(f"expected a folder that `splitleak split` wrote, got {folder}")
        record = read_table(folder / "splits.json")
        summary = record.pop("summary", None)
        _Record.parse(record, source=str(folder / "splits.json"))
        names = [part for part in (*PARTS, "generic") if part in PARTS or part in record["images"]]
        parts = {part: load_file(folder / f"{part}.npz").train for part in names}
        for part, images in parts.items():
            if digest(sorted(images.hashes())) != record["images"][part]["digest"]:
                raise ValueError(f"{folder / part}.npz: expected the images that splits.json records, got others")
        return cls(**parts, record=record, summary=summary)


class _Set(BaseModel):
    count: int
    digest: str


class _Record(Config):
    """What any record of splits holds; other keys tell how the sets were made."""

    model_config = ConfigDict(extra="ignore")

    dataset: str
    config: dict[str, Any]
    images: dict[str, _Set]

    @model_validator(mode="after")
    def _has_all(self) -> Self:
        if lacking := [part for part in PARTS if part not in self.images]:
            raise ValueError(f"expected images of {', '.join(lacking)} too")
        return self


def split(dataset: Dataset, config: SplitConfig) -> Splits:
    """Splits by seed. Victims, public and training images come from the training pool, test images from the test pool.

    Where the set has no test pool, or one of copies alone, a fifth of the pool (or ``test``) is held out. An image that
    occurs twice, to the pixel, is used once, so that no set can know another by a copy.

    With ``from = "test"`` victims and public images come from the test pool, so that the target has the whole training
    pool, and its accuracy is measured on the whole test pool, theirs included, as papers do; with ``config.test``, on
    so many others of it.

    With ``config.classes`` these sets hold that many classes, chosen by seed and labelled anew in the order they have
    in the data set. ``generic`` then holds images of all the others, from both pools, with labels and names of their
    own: ``config.generic``, by default as many as ``public``, or as many as there are. With ``config.stratified`` each
    set is drawn class by class, each class in proportion to what is left of it: rounded down, and what then lacks goes
    one by one to the largest remainders, equal ones by the order of the classes.

    Raises:
        ValueError: There are too few images for the counts, or too few classes; a stratified set is too small to have
            an image of every class; or victims are to come from a test pool that is not there.
    """
    ours, others = _by_classes(dataset, config)
    seen: set[str] = set()
    fresh = _first_occurrences(ours.train, seen)
    draw = generator(config.seed, "splits")
    order = fresh[torch.randperm(len(fresh), generator=draw)]

    def take(part: str, pool: Images, order: Tensor, count: int) -> tuple[Images, Tensor]:
        if not config.stratified:
            return pool.select(order[:count]), order[count:]
        taken, left = _class_by_class(pool, order, count)
        present = set(pool.labels[taken].tolist())
        if absent := [name for label, name in enumerate(pool.classes) if label not in present]:
            raise ValueError(f"expected {part} with every class, got {len(taken)} images, none of {', '.join(absent)}")
        return pool.select(taken), left

    candidates = torch.empty(0) if ours.test is None else _first_occurrences(ours.test, seen)
    candidates = candidates[torch.randperm(len(candidates), generator=draw)]
    attacked = config.victims + config.public
    if config.pool == "test":
        if ours.test is None or len(candidates) == 0:
            raise ValueError(f"expected a test pool for victims and public images, but {dataset.name} has none")
        pool, ready, tested = ours.test, candidates[:attacked], candidates[attacked:]
        ample = len(ready) == attacked and len(tested) >= (config.test or 0)
        test, _ = take("test", pool, candidates if config.test is None else tested, config.test or len(candidates))
        left = len(order)
    else:
        if ours.test is None or len(candidates) == 0:
            test, order = take("test", ours.train, order, config.test if config.test is not None else len(order) // 5)
        else:
            test, _ = take("test", ours.test, candidates, len(candidates) if config.test is None else config.test)
        pool, ready, ample, left = ours.train, order, len(test) >= (config.test or 1), len(order) - attacked
    train = config.train if config.train is not None else left
    if not 1 <= train <= left or not ample:
        wanted = ", ".join(f"{part} {getattr(config, part) or 'rest'}" for part in PARTS)
        where = f", {len(candidates)} of them in its test pool" if config.pool == "test" else ""
        raise ValueError(f"expected images for {wanted}, but {dataset.name} has {len(seen)} different ones{where}")
    parts = {"test": test}
    for part, count in (("victims", config.victims), ("public", config.public)):
        parts[part], ready = take(part, pool, ready, count)
    parts["train"], _ = take("train", ours.train, order if config.pool == "test" else ready, train)
    if others is not None:
        parts["generic"] = _generic(others, config, seen)
    record = {
        "dataset": dataset.name,
        "config": config.document(),
        "images": {
            name: {"count": len(parts[name]), "digest": digest(sorted(parts[name].hashes()))}
            for name in (*PARTS, "generic")
            if name in parts
        },
    }
    if config.classes is not None:
        record["classes"] = list(ours.classes)
    return Splits(**parts, record=record, summary=_summary(ours, parts))


def _summary(dataset: Dataset, parts: Mapping[str, Images]) -> dict[str, Any]:
    """What `Splits.summary` holds."""
    names = dataset.classes
    pools = [pool for pool in (dataset.train, dataset.test) if pool is not None]
    counts = torch.bincount(torch.cat([pool.labels for pool in pools]), minlength=len(names))
    first: dict[str, int] = {}
    hashes = [pool.hashes() for pool in pools]
    labelled = [
        pair
        for pool, named in zip(pools, hashes, strict=True)
        for pair in zip(named, pool.labels.tolist(), strict=True)
    ]
    contradicting = sum(first.setdefault(image, label) != label for image, label in labelled)
    copied = len(pools) == 2 and set(hashes[1]) <= set(hashes[0])
    return {
        "classes": dict(zip(names, counts.tolist(), strict=True)),
        **dataset.reading.document(),
        "duplicates": len(labelled) - len(first),
        "flags": [
            *(["all test images are copies of training images: others are held out"] if copied else []),
            *([f"{contradicting} duplicates have another class than their first"] if contradicting else []),
            *_flags(names, parts),
        ],
    }


def _flags(names: Sequence[str], parts: Mapping[str, Images]) -> Iterator[str]:
    """What makes a result on these sets worth less than it looks."""
    if len(names) == 1:
        yield f"there is one class only, {names[0]}: whatever a target answers is right"
        return
    for part in ("train", "test"):
        counts = torch.bincount(parts[part].labels, minlength=len(names))
        share, label = float(counts.max()) / len(parts[part]), int(counts.argmax())
        if share >= _ONE_SIDED:
            yield f"{share:.0%} of the {part} images are of one class, {names[label]}: to answer it always is right"
    if lacking := [name for label, name in enumerate(names) if label not in parts["train"].labels]:
        yield f"no training image is of {listed(lacking)}: a target cannot learn what has none"


def _by_classes(dataset: Dataset, config: SplitConfig) -> tuple[Dataset, Dataset | None]:
    """The target's classes, and the others (None where there is none)."""
    known = len(dataset.classes)
    if config.classes is None or config.classes == known:
        return dataset, None
    if config.classes > known:
        raise ValueError(f"expected at most the {known} classes of {dataset.name}, got {config.classes}")
    shuffled = torch.randperm(known, generator=generator(config.seed, "splits", "classes"))
    chosen, others = shuffled[: config.classes].sort().values, shuffled[config.classes :].sort().values
    return _of_classes(dataset, chosen), _of_classes(dataset, others)


def _of_classes(dataset: Dataset, classes: Tensor) -> Dataset:
    """The images of ``classes`` (ascending labels), labelled 0, 1, ... in that order."""

    def of(images: Images) -> Images:
        kept = torch.isin(images.labels, classes).nonzero().flatten()
        names = tuple(images.classes[label] for label in classes.tolist())
        return Images(images.pixels[kept], torch.searchsorted(classes, images.labels[kept]), names)

    return replace(dataset, train=of(dataset.train), test=None if dataset.test is None else of(dataset.test))


def _generic(others: Dataset, config: SplitConfig, seen: set[str]) -> Images:
    pools = [pool for pool in (others.train, others.test) if pool is not None]
    joined = Images(torch.cat([p.pixels for p in pools]), torch.cat([p.labels for p in pools]), others.classes)
    fresh = _first_occurrences(joined, seen)
    order = fresh[torch.randperm(len(fresh), generator=generator(config.seed, "splits", "generic"))]
    count = min(config.public if config.generic is None else config.generic, len(order))
    return joined.select(_class_by_class(joined, order, count)[0] if config.stratified else order[:count])


def _class_by_class(pool: Images, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first of ``order`` of each class, ``count`` in all, and what is left; both in the order they had."""
    labels = pool.labels[order]
    sizes = torch.bincount(labels, minlength=len(pool.classes))
    count = min(count, len(order))
    shares, remainders = sizes * count // max(len(order), 1), sizes * count % max(len(order), 1)
    shares[remainders.sort(descending=True, stable=True).indices[: count - int(shares.sum())]] += 1
    rank = torch.empty_like(order)  # of an image among those of its class
    for label in range(len(pool.classes)):
        rank[labels == label] = torch.arange(int(sizes[label]))
    taken = rank < shares[labels]
    return order[taken], order[~taken]


def _first_occurrences(images: Images, seen: set[str]) -> Tensor:
    """Indices of the images not in ``seen`` yet, which they then are."""
    indices = []
    for index, name in enumerate(images.hashes()):
        if name not in seen:
            seen.add(name)
            indices.append(index)
    return torch.tensor(indices, dtype=torch.int64)

"""Which pool and which class a picture belongs to, from the folders it lies in."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Folders = tuple[str, ...]

POOLS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
"""The names of a pool's folder, in lower case."""
_WRAPPERS = frozenset(
    {"data", "faces", "frames", "image", "images", "img", "imgs", "jpeg", "jpegimages", "jpegs", "jpg", "photos"}
    | {"pictures", "png"}
)


class Place(NamedTuple):
    """Where a picture belongs: its pool (train, val or test), and its class, if its folders name one."""

    pool: str
    label: str | None


def places(folders: Sequence[Folders]) -> list[Place]:
    """The place of each picture, from the names of the folders it lies in, outermost first.

    Folders that all pictures share are passed over, and so is a folder ``images`` (or the like) that is the only one
    in its own. A level is that of pools where each of its names is a pool's: ``train``, ``val`` and ``test``, their
    longer spellings, or all with the same words around it (``seg_train``, ``seg_test``). Among ``bus`` and ``car``,
    ``train`` is a class. Else a class is the outermost folder that holds pictures itself. It is called by its last
    name, or by all of them where two classes would be called the same.

    Raises:
        ValueError: Folders of pools lie beside others.
    """
    bare = _unwrapped(folders)
    inner = [folder for folder in set(bare) if folder]
    top = _shared(inner)
    level = _pool_level({folder[top:] for folder in inner})
    pools = ["train"] * len(bare)
    rests = [folder[top:] for folder in bare]
    if level is not None:
        pools = [_pool(rest[level])[0] if rest else "train" for rest in rests]
        rests = [rest[:level] + rest[level + 1 :] for rest in rests]
        for pool in set(pools):
            first = {rest[0] if len(rest) > 1 else "" for rest, its in zip(rests, pools, strict=True) if its == pool}
            name = first.pop()
            if not first and (name.lower() in _WRAPPERS or _pool(name)[0]):
                rests = [rest[1:] if its == pool else rest for rest, its in zip(rests, pools, strict=True)]
    holders = set(rests) - {()}
    classes = {rest: next(rest[:end] for end in range(1, len(rest) + 1) if rest[:end] in holders) for rest in holders}
    last = [name[-1] for name in set(classes.values())]
    labels = {rest: name[-1] if last.count(name[-1]) == 1 else "/".join(name) for rest, name in classes.items()}
    return [Place(pool, labels.get(rest)) for pool, rest in zip(pools, rests, strict=True)]


def _unwrapped(folders: Sequence[Folders]) -> list[Folders]:
    """Folders without an innermost ``images`` that is all its own folder holds."""
    found = dict(zip(folders, folders, strict=True))
    for _ in range(max(map(len, folders), default=0)):
        held = set(found.values())
        children: dict[Folders, set[str]] = {}
        for folder in held:
            for end in range(len(folder)):
                children.setdefault(folder[:end], set()).add(folder[end])
        loose = {
            folder
            for folder in held
            if len(folder) > 1
            and folder[-1].lower() in _WRAPPERS
            and folder not in children
            and len(children[folder[:-1]]) == 1
            and folder[:-1] not in held
        }
        if not loose:
            break
        found = {given: folder[:-1] if folder in loose else folder for given, folder in found.items()}
    return [found[folder] for folder in folders]


def _shared(folders: Iterable[Folders]) -> int:
    """How many outermost folders all have in common; the innermost is not counted, nor a pool's folder."""
    distinct = list(folders)
    count = 0
    while all(len(folder) > count + 1 for folder in distinct) and len({folder[count] for folder in distinct}) == 1:
        if _pool(distinct[0][count])[0]:
            break
        count += 1
    return count


def _pool_level(folders: set[Folders]) -> int | None:
    """The level whose names are all a pool's, each another's, if there is one."""
    for level in range(min(map(len, folders), default=0)):
        names = sorted({folder[level] for folder in folders})
        found = [_pool(name) for name in names]
        alike = len({around for _, around in found}) == 1
        if alike and all(pool for pool, _ in found) and len({pool for pool, _ in found}) == len(names):
            return level
        nested = {folder[level] for folder in folders if len(folder) > level + 1}
        if level == 0 and any(name.lower() in POOLS for name in nested):
            raise ValueError(f"expected folders of pools (train, val, test) or of classes, got {', '.join(names)}")
    return None


def _pool(name: str) -> tuple[str, str]:
    """The pool a folder's name stands for (none: empty), and the words around the pool's own; digits do not count."""
    words = re.split(r"([^a-z]+)", re.sub(r"\d", "", name.lower()))
    found = [at for at, word in enumerate(words) if word in POOLS]
    if len(found) != 1:
        return "", ""
    return POOLS[words[found[0]]], "".join((*words[: found[0]], "*", *words[found[0] + 1 :]))

"""Images from a tree of files: a folder, or a zip of one. Each picture is brought to its size as it is read."""

import hashlib
import os
import stat
import time
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch

from splitleak.datasets.images import Dataset, Images, Reading, Size, fitted_pixels, listed, sides, uses_of
from splitleak.datasets.layout import Folders, Place, places
from splitleak.datasets.pictures import MOST_BYTES, NOT_READ, READ, SIXTEEN_BITS, Header, decode, read_header
from splitleak.errors import said
from splitleak.logs import Report, silent

UNLABELLED = "unlabelled"
"""The class of images that lie in no class's folder, where none does."""

_SYSTEM = frozenset(
    {"#recycle", "$recycle.bin", "@eadir", "__macosx", "__pycache__", "desktop.ini", "ehthumbs.db", "icon\r"}
    | {"lost+found", "system volume information", "thumbs.db"}
)
_TEXT = frozenset(
    {".csv", ".html", ".json", ".log", ".mat", ".md", ".pdf", ".py", ".rst", ".toml", ".tsv", ".txt", ".xml"}
    | {".yaml", ".yml"}
)
_LABELS = "val_annotations.txt"  # of tiny-imagenet: which class each validation image is of
_SMALL_RANGE = 64  # of 256 values: pictures of 16 bits that use no more are pointed out
_QUIET_S = 2.0  # reading that takes no longer reports no progress


@dataclass(frozen=True)
class _File:
    """A file of the tree: its path in it, and its contents."""

    path: Folders
    opened: Callable[[], IO[bytes]]

    @property
    def name(self) -> str:
        return shown("/".join(self.path))

    @property
    def suffix(self) -> str:
        return Path(self.path[-1]).suffix.lower()

    def digest(self) -> str:
        try:
            return hashlib.sha256(self.contents()).hexdigest()
        except (OSError, ValueError) as error:
            return said(error)

    def contents(self) -> bytes:
        with self.opened() as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"expected at most {MOST_BYTES:,} bytes, got more")
        return data


@dataclass
class _Tree:
    """All that was found at ``source``; what cannot be read is refused, or, with ``skip_bad``, listed."""

    source: Path
    skip_bad: bool
    files: list[_File] = field(default_factory=list)
    folders: set[Folders] = field(default_factory=set)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def refuse(self, name: str, error: BaseException | str) -> None:
        reason = error if isinstance(error, str) else said(error)
        if not self.skip_bad:
            raise ValueError(f"{self.source}: expected an image at {name}, but {reason}")
        self.skipped.append((name, reason))

    def ignore(self, kind: str, name: str) -> None:
        self.ignored.setdefault(kind, []).append(name)

    def nothing(self) -> str:
        """The message of an error: every image had to be skipped."""
        name, reason = self.skipped[0]
        return f"{self.source}: expected images that can be read, got none; the first, {name}: {reason}"

    def take(self, path: Folders, opened: Callable[[], IO[bytes]]) -> None:
        """Takes a file, unless a system put it there for itself."""
        if _of_a_system(path):
            self.ignore("hidden and system files", shown("/".join(path)))
        else:
            self.files.append(_File(path, opened))


def load_folder(
    path: Path,
    *,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    report: Report = silent,
) -> Dataset:
    """The images below ``path``; links to folders are followed. See `load_file`."""
    return _load(_walked(path, skip_bad), size, channels, report)


def folder_contents(path: Path) -> list[tuple[str, str]]:
    """By name, the SHA-256 of each file below ``path`` that `load_folder` reads, or why it cannot be read."""
    tree = _walked(path, skip_bad=True)
    files = [file for file in tree.files if file.suffix in READ or file.path[-1] == _LABELS]
    return sorted(("/".join(file.path), file.digest()) for file in files)


def _walked(path: Path, skip_bad: bool) -> _Tree:
    tree = _Tree(path, skip_bad)
    pending: list[tuple[Path, Folders, tuple[tuple[int, int], ...]]] = [(path, (), ())]
    while pending:
        folder, parts, above = pending.pop()
        try:
            found = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            tree.refuse(shown("/".join(parts)) or "its top", error)
            continue
        here = (found.st_dev, found.st_ino)
        if here in above:
            tree.ignore("links to a folder above", shown("/".join(parts)))
            continue
        for entry in entries:
            inner = (*parts, entry.name)
            if not os.path.isdir(entry.path):
                tree.take(inner, partial(_opened_file, entry.path))
            elif _of_a_system(inner):
                tree.ignore("hidden and system folders", shown("/".join(inner)))
            else:
                tree.folders.add(inner)
                pending.append((Path(entry.path), inner, (*above, here)))
    return tree


def load_zip(
    path: Path,
    *,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    report: Report = silent,
) -> Dataset:
    """The images of a zip; names with backslashes are taken as paths. See `load_file`."""
    tree = _Tree(path, skip_bad)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path}: expected a zip of images, but {said(error)}") from None
    with archive:
        for member in archive.infolist():
            named = member.filename.replace("\\", "/")
            parts = tuple(part for part in named.split("/") if part not in ("", ".", ".."))
            if named.endswith("/") and not _of_a_system(parts):
                tree.folders.update(parts[: end + 1] for end in range(len(parts)))
            elif parts and not named.endswith("/"):
                tree.folders.update(parts[: end + 1] for end in range(len(parts) - 1) if not _of_a_system(parts[:-1]))
                tree.take(parts, partial(_opened_member, archive, member))
        return _load(tree, size, channels, report)


def shown(name: str) -> str:
    """A file's name as one line of text: composed Unicode, with what cannot be printed as an escape."""
    composed = unicodedata.normalize("NFC", name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in composed)


def _of_a_system(path: Folders) -> bool:
    return any(part.startswith((".", "~$")) or part.lower() in _SYSTEM for part in path)


def _opened_file(path: str) -> IO[bytes]:
    if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for
        raise ValueError("it is no regular file")
    return Path(path).open("rb")


def _opened_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    if member.flag_bits & 1:
        raise ValueError("it is encrypted")
    if member.file_size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes, got {member.file_size:,} when unpacked")
    return archive.open(member)


def _load(tree: _Tree, size: Size | None, channels: int | None, report: Report) -> Dataset:
    began = time.monotonic()

    def say(what: str, done: int, total: int) -> None:
        if time.monotonic() - began > _QUIET_S:
            report(what, done, total, {})

    if channels not in (None, 1, 3):
        raise ValueError(f"{tree.source}: expected pictures to be read with 1 or 3 channels, got {channels}")
    found = _placed(tree, _pictures(tree))
    if not found:
        raise ValueError(tree.nothing())
    try:
        uses = uses_of({place.pool for _, place in found})
    except ValueError as error:
        raise ValueError(f"{tree.source}: {error}") from None
    found = [(file, place) for file, place in found if uses[place.pool] != "nothing"]
    headers = []
    for done, (file, place) in enumerate(found, 1):
        say("look at", done, len(found))
        try:
            with file.opened() as opened:
                if not opened.read(1):
                    raise ValueError("it is empty")
                opened.seek(0)
                headers.append((file, place, read_header(opened)))
        except Exception as error:  # whatever the system or zipfile raise; Pillow's are ValueErrors
            tree.refuse(file.name, error)
    if not headers:
        raise ValueError(tree.nothing())
    shape = _common(tree, [header for _, _, header in headers], size, channels)
    read = {}
    for pool, use in uses.items():
        if use != "nothing":
            members = [(file, place.label or UNLABELLED) for file, place, _ in headers if place.pool == pool]
            read[use] = _read(tree, members, shape, partial(say, f"read {pool}"))
    if not any(labels for _, labels in read.values()):
        raise ValueError(tree.nothing())
    classes = tuple(sorted({label for _, labels in read.values() for label in labels}))
    if lost := {place.label or UNLABELLED for _, place in found} - {*classes}:
        tree.notes.append(f"no image could be read of {listed(lost)}")
    pools = {
        use: Images(pixels, torch.tensor([classes.index(label) for label in labels], dtype=torch.int64), classes)
        for use, (pixels, labels) in read.items()
    }
    reading = Reading(uses, (*tree.skipped,), {kind: (*names,) for kind, names in tree.ignored.items()}, (*tree.notes,))
    return Dataset(tree.source.stem or tree.source.resolve().stem, pools["train"], pools.get("test"), reading)


def _pictures(tree: _Tree) -> list[_File]:
    """The files that are read as images; of the others each is refused or counted, and so is a folder without any."""
    tree.files.sort(key=lambda file: file.path)
    pictures = [file for file in tree.files if file.suffix in READ]
    holding = {file.path[:-1] for file in tree.files if file.suffix in READ or file.suffix in NOT_READ}
    around = {folder[:end] for folder in holding for end in range(len(folder) + 1)}
    held: dict[Folders, Counter[str]] = {}
    for file in tree.files:
        if file.suffix in NOT_READ:
            tree.refuse(file.name, f"{file.suffix} is not read, only {listed(READ)}")
        elif file.suffix not in READ:
            tree.ignore("files that are no images", file.name)
            for end in range(1, len(file.path)):
                held.setdefault(file.path[:end], Counter())[file.suffix or "no suffix"] += 1
    if not pictures and not tree.skipped:
        among = Counter(file.suffix or "no suffix" for file in tree.files)
        got = f" among {len(tree.files)} files ({listed(among)})" if among else ""
        raise ValueError(f"{tree.source}: expected images ({listed(READ)}), found none{got}")
    told: set[Folders] = set()
    for folder in sorted(tree.folders - around):
        if any(folder[:end] in told or folder[:end] in holding for end in range(1, len(folder))):
            continue
        told.add(folder)
        name, suffixes = shown("/".join(folder)), held.get(folder, Counter())
        if suffixes.keys() <= _TEXT:
            tree.ignore("folders without images", name)
        else:
            tree.refuse(name, f"this folder holds {listed(suffixes)} files alone")
    return pictures


def _placed(tree: _Tree, pictures: list[_File]) -> list[tuple[_File, Place]]:
    """The images that have a class, or all of them where none has."""
    try:
        found = list(zip(pictures, places([file.path[:-1] for file in pictures]), strict=True))
    except ValueError as error:
        raise ValueError(f"{tree.source}: {error}") from None
    for listing in (file for file in tree.files if file.path[-1] == _LABELS):
        labels = _listed_labels(tree, listing)
        for at, (file, place) in enumerate(found):
            if file.path[: len(listing.path) - 1] == listing.path[:-1]:
                found[at] = (file, place._replace(label=place.label or labels.get(file.path[-1])))
    if all(place.label is None for _, place in found):
        return found
    for file, place in found:
        if place.label is None:
            tree.ignore("images without a class", file.name)
    return [(file, place._replace(label=shown(place.label))) for file, place in found if place.label is not None]


def _listed_labels(tree: _Tree, listing: _File) -> dict[str, str]:
    """The class of each file, from lines of file name, class and more between tabs."""
    try:
        lines = [line.split("\t") for line in listing.contents().decode("utf-8-sig").splitlines() if line.strip()]
        return {line[0]: line[1] for line in lines}
    except Exception as error:
        reason = "a line without a tab" if isinstance(error, IndexError) else said(error)
        raise ValueError(f"{tree.source}: expected file names and classes in {listing.name}, got {reason}") from None


def _common(tree: _Tree, headers: list[Header], size: Size | None, channels: int | None) -> tuple[int, tuple[int, int]]:
    """The channels and (height, width) of the set: those asked for; else colour if any has it, and the usual size."""
    coloured = sum(header.colour for header in headers)
    sizes = Counter(header.size for header in headers)
    usual = max(sizes, key=lambda each: (sizes[each], each))
    wanted = usual if size is None else sides(size)
    if 0 < coloured < len(headers):
        tree.notes.append(f"{len(headers) - coloured} of {len(headers)} images are grey, the others in colour")
    if len(sizes) > 1:
        (h, w), (high, wide) = min(sizes, key=np.prod), max(sizes, key=np.prod)
        tree.notes.append(
            f"images of {len(sizes)} sizes, {h} × {w} to {high} × {wide}, all made {wanted[0]} × {wanted[1]}"
        )
    return channels or (3 if coloured else 1), wanted


def _read(
    tree: _Tree,
    members: list[tuple[_File, str]],
    shape: tuple[int, tuple[int, int]],
    say: Callable[[int, int], None],
) -> tuple[torch.Tensor, list[str]]:
    """Pixels and labels of ``members``, less what could not be read."""
    channels, size = shape
    try:
        pixels = np.empty((len(members), channels, *size), np.uint8)
    except MemoryError:
        got = f"{len(members)} of {channels} × {size[0]} × {size[1]}"
        raise ValueError(f"{tree.source}: expected images that fit into memory, got {got}") from None
    labels: list[str] = []
    treated: Counter[str] = Counter()
    for done, (file, label) in enumerate(members, 1):
        say(done, len(members))
        try:
            picture = decode(file.contents(), max(size))
        except Exception as error:  # as above
            tree.refuse(file.name, error)
            continue
        treated.update(picture.treated)
        pixels[len(labels)] = fitted_pixels(torch.tensor(picture.pixels[None]), size, channels)[0]
        labels.append(label)
    tree.notes += [f"{count} images: {treatment}" for treatment, count in sorted(treated.items())]
    read = pixels[: len(labels)]
    if SIXTEEN_BITS in treated and int(read.max(initial=0)) < _SMALL_RANGE:
        tree.notes.append(f"no pixel is above {int(read.max())} of 255: are these 12 bits, or fewer, in files of 16?")
    return torch.from_numpy(read), labels

"""A blind user study: a page with a real image of a class and two reconstructions; which is more similar?"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import write_json
from splitleak.attacker.outputs import Reconstructions
from splitleak.config import Config, digest, read_table
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_whole, read_record
from splitleak.eval.record.class_figures import whole_features
from splitleak.eval.report.figures.gallery import png, visible_channels
from splitleak.eval.report.page import render, write_text
from splitleak.eval.study.votes import Key, KeyPair, Side, Vote, Votes
from splitleak.inputs import check_different
from splitleak.outputs import check_file, check_json_name
from splitleak.seeding import generator

_OF_CLASS = re.compile(r"([0-9]{1,9})(?:/([0-9]{1,9}))?")  # an id of a reconstruction


class StudyConfig(Config):
    """Size and time limit of a study."""

    each: int = Field(default=1, ge=1, description="maximum pairs of reconstructions per class")
    seconds: int = Field(default=60, ge=0, description="time limit per pair; 0: none")
    seed: int = Field(
        default=0, ge=0, description="of sides, order and real images; keep it secret, it gives the sides"
    )


@dataclass(frozen=True)
class Study:
    """The pairs in the order of the page, all images uint8 ``(N, C, H, W)``, and the answer key."""

    real: Tensor
    left: Tensor
    right: Tensor
    key: Key


def make_study(first: Path, second: Path, train_images: Path, config: StudyConfig) -> Study:
    """Pairs the reconstructions of two attacks, A and B, of the same classes.

    After the user study of MIRROR (An et al., NDSS 2022) as TL-DMI repeats it: one real image, two reconstructions in
    random order, 60 seconds to choose the more similar one.

    Args:
        first: Folder of attack A, as `splitleak invert` writes it.
        second: Folder of attack B.
        train_images: The target's training images, from which real images are drawn.
        config: Size and seed.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: The attacks are one, or have no class in common, or the images differ in shape.
    """
    check_different([first, second], "attacks")
    private = load_file(train_images).train
    a, b = (_rebuilt(folder, private) for folder in (first, second))
    draw = generator(config.seed, "study")
    shown: list[tuple[int, int]] = []
    for label in sorted({label for label, _ in a.keys() & b.keys()}):
        shown += [pair for pair in sorted(a.keys() & b.keys()) if pair[0] == label][: config.each]
    if not shown:
        raise ValueError(f"expected reconstructions of the same classes in {first} and {second}, got none")
    if all(torch.equal(a[place], b[place]) for place in shown):
        raise ValueError(f"expected reconstructions of two attacks in {first} and {second}, got the same pictures")
    real, left, right, pairs = [], [], [], []
    for number, place in enumerate(torch.randperm(len(shown), generator=draw).tolist()):
        label, index = shown[place]
        candidates = (private.labels == label).nonzero().flatten()
        if not len(candidates):
            raise ValueError(f"{train_images}: expected images of class {label}, got none")
        real.append(private.pixels[candidates[int(torch.randint(len(candidates), (1,), generator=draw))]])
        a_is_left = bool(torch.randint(2, (1,), generator=draw))
        sides = (a[shown[place]], b[shown[place]])
        left.append(sides[0 if a_is_left else 1])
        right.append(sides[1 if a_is_left else 0])
        pairs.append(KeyPair(pair=number, label=label, turn=index, left="a" if a_is_left else "b"))
    stacks = [torch.stack(pixels) for pixels in (real, left, right)]
    study = digest([Images(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("",)).hashes() for pixels in stacks])
    key = Key(study=study, a=_about(first), b=_about(second), seed=config.seed, pairs=tuple(pairs))
    return Study(stacks[0], stacks[1], stacks[2], key)


def write_study(study: Study, out: Path, key: Path, config: StudyConfig) -> None:
    """Writes the self-contained HTML page ``out`` and, to another file, the answer ``key``.

    Raises:
        FileExistsError: There is a page, or a key, of something else.
        ValueError: The page and the key are the same file, or the key is no ``.json`` file.
    """
    if out.resolve() == key.resolve():
        raise ValueError(f"expected another file for the key than for the page, got {key} for both")
    check_json_name(key, "the key")
    own = study.key.study
    check_file(out, "the page of this study", lambda path: own in path.read_text(encoding="utf-8"))
    check_file(key, "the key of this study", lambda path: Key.read(path).study == own)
    pairs = [
        tuple(png(image.numpy()) for image in images)
        for images in zip(study.real, study.left, study.right, strict=True)
    ]
    note = visible_channels(study.real.shape[1])
    page = render("study.html.jinja", study=own, pairs=pairs, seconds=config.seconds, note=note)
    write_text(out, page)
    write_json(key, study.key.document())


def choose(study: Study, chooser: Path) -> Votes:
    """The votes of a classifier instead of a person: the side whose features are nearer to the real image's, by L2.

    Equal distances are no choice.

    Args:
        study: The pairs.
        chooser: Artifact of the classifier; use another one than the evaluator of other metrics.

    Raises:
        FileNotFoundError: There is no artifact.
        ValueError: It takes images of another shape.
    """
    model = load_whole(chooser, torch.device("cpu"), seed=0)
    if model.input_shape != tuple(study.real.shape[1:]):
        got = tuple(study.real.shape[1:])
        raise ValueError(f"{chooser}: expected images {model.input_shape} for this chooser, got {got}")
    real, left, right = (whole_features(model, x.float() / 255)[0] for x in (study.real, study.left, study.right))
    nearer = ((left - real).norm(dim=1) - (right - real).norm(dim=1)).tolist()
    votes = tuple(Vote(pair=pair, choice=_side(difference)) for pair, difference in enumerate(nearer))
    return Votes(study=study.key.study, voter=str(read_record(chooser)["name"]), votes=votes)


def _side(further: float) -> Side | None:
    """The nearer side, given the left distance minus the right one."""
    if further == 0:
        return None
    return "right" if further > 0 else "left"


def _rebuilt(folder: Path, private: Images) -> dict[tuple[int, int], Tensor]:
    """Reconstructions by class and index, uint8 ``(C, H, W)``; ids are ``3``, or ``3/0`` with several per class."""
    reconstructions = Reconstructions.load(folder / "reconstructions.npz")
    if reconstructions.images.shape[1:] != private.pixels.shape[1:]:
        expected, got = tuple(private.pixels.shape[1:]), tuple(reconstructions.images.shape[1:])
        raise ValueError(f"{folder}: expected reconstructions {expected}, as the real images are, got {got}")
    pixels = (reconstructions.images * 255).round().to(torch.uint8)
    by_class_and_index = {}
    for name, image in zip(reconstructions.ids, pixels, strict=True):
        if not (match := _OF_CLASS.fullmatch(name)):
            raise ValueError(f"{folder}: expected what `splitleak invert` writes, images of classes, got {name!r:.40}")
        by_class_and_index[int(match[1]), int(match[2] or 0)] = image
    return by_class_and_index


def _about(folder: Path) -> dict[str, Any]:
    attack = read_table(folder / "attack.json")
    return {"folder": str(folder), **{name: attack[name] for name in ("attack", "config", "seed") if name in attack}}

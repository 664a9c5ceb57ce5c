"""A blind study: one page with a real image of a class and two reconstructions of it. Which comes closer?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import write_json
from splitleak.attacker.outputs import Reconstructions
from splitleak.config import Config, digest, read_document
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_whole, read_record
from splitleak.eval.record.class_figures import whole_features
from splitleak.eval.report.gallery import png
from splitleak.eval.report.page import render, write_text
from splitleak.eval.study.votes import Key, KeyPair, Side, Vote, Votes
from splitleak.seeding import generator


class StudyConfig(Config):
    """How large a study is."""

    each: int = Field(default=1, ge=1, description="pairs of reconstructions of each class, at most")
    seconds: int = Field(default=60, ge=0, description="to answer a pair; 0: as long as it takes")
    seed: int = Field(default=0, ge=0, description="of sides, order and real images; who knows it knows the sides")


@dataclass(frozen=True)
class Study:
    """The pairs in the order of the page, all images uint8 ``(N, C, H, W)``, and the key."""

    real: Tensor
    left: Tensor
    right: Tensor
    key: Key


def make_study(first: Path, second: Path, train_images: Path, config: StudyConfig) -> Study:
    """Pairs what two attacks (folders that `splitleak invert` wrote), A and B, rebuilt of the same classes.

    Real images are drawn from ``train_images``, those of the target. After the study of MIRROR (An et al., NDSS 2022)
    as TL-DMI repeats it: one real image, two reconstructions in random order, 60 seconds to choose the closer one.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: The attacks have no class in common, or images are of several shapes.
    """
    private = load_file(train_images).train
    a, b = (_rebuilt(folder, private) for folder in (first, second))
    draw = generator(config.seed, "study")
    shown: list[tuple[int, int]] = []
    for label in sorted({label for label, _ in a.keys() & b.keys()}):
        shown += [(label, turn) for of, turn in sorted(a.keys() & b.keys()) if of == label][: config.each]
    if not shown:
        raise ValueError(f"expected reconstructions of the same classes in {first} and {second}, got none")
    real, left, right, pairs = [], [], [], []
    for number, place in enumerate(torch.randperm(len(shown), generator=draw).tolist()):
        label, turn = shown[place]
        candidates = (private.labels == label).nonzero().flatten()
        if not len(candidates):
            raise ValueError(f"{train_images}: expected images of class {label}, got none")
        real.append(private.pixels[candidates[int(torch.randint(len(candidates), (1,), generator=draw))]])
        a_is_left = bool(torch.randint(2, (1,), generator=draw))
        sides = (a[shown[place]], b[shown[place]])
        left.append(sides[0 if a_is_left else 1])
        right.append(sides[1 if a_is_left else 0])
        pairs.append(KeyPair(pair=number, label=label, turn=turn, left="a" if a_is_left else "b"))
    images = [torch.stack(each) for each in (real, left, right)]
    study = digest([Images(each, torch.zeros(len(each), dtype=torch.int64), ("",)).hashes() for each in images])
    key = Key(study=study, a=_about(first), b=_about(second), seed=config.seed, pairs=tuple(pairs))
    return Study(images[0], images[1], images[2], key)


def write_study(study: Study, out: Path, key: Path, config: StudyConfig) -> None:
    """Writes the page ``out``, which needs no other file and no network, and the ``key``, which the page does not hold.

    Raises:
        ValueError: The page and the key are one file.
    """
    if out.resolve() == key.resolve():
        raise ValueError(f"expected another file for the key than for the page, got {key} for both")
    pairs = [
        tuple(png(each.numpy()) for each in shown) for shown in zip(study.real, study.left, study.right, strict=True)
    ]
    page = render("study.html.jinja", study=study.key.study, pairs=pairs, seconds=config.seconds)
    write_text(out, page)
    write_json(key, study.key.document())


def choose(study: Study, chooser: Path) -> Votes:
    """The votes of a classifier in a person's place: the side whose features are nearer to the real image's, by L2.

    ``chooser`` is an artifact; let it be another than the evaluator that other figures are of. Equal distances are no
    choice.

    Raises:
        FileNotFoundError: There is no artifact.
        ValueError: It takes images of another shape.
    """
    model = load_whole(chooser, torch.device("cpu"), seed=0)
    if model.input_shape != tuple(study.real.shape[1:]):
        got = tuple(study.real.shape[1:])
        raise ValueError(f"{chooser}: expected images {model.input_shape} for this chooser, got {got}")
    real, left, right = (whole_features(model, each.float() / 255)[0] for each in (study.real, study.left, study.right))
    nearer = ((left - real).norm(dim=1) - (right - real).norm(dim=1)).tolist()
    votes = tuple(Vote(pair=pair, choice=_side(apart)) for pair, apart in enumerate(nearer))
    return Votes(study=study.key.study, voter=str(read_record(chooser)["name"]), votes=votes)


def _side(further: float) -> Side | None:
    """Which side is nearer, given how much further the left one is."""
    if further == 0:
        return None
    return "right" if further > 0 else "left"


def _rebuilt(folder: Path, private: Images) -> dict[tuple[int, int], Tensor]:
    """By class and turn, uint8 ``(C, H, W)``; ids are ``3``, or ``3/0`` where there are several of a class."""
    made = Reconstructions.load(folder / "reconstructions.npz")
    if made.images.shape[1:] != private.pixels.shape[1:]:
        expected, got = tuple(private.pixels.shape[1:]), tuple(made.images.shape[1:])
        raise ValueError(f"{folder}: expected reconstructions {expected}, as the real images are, got {got}")
    pixels = (made.images * 255).round().to(torch.uint8)
    found = {}
    for name, image in zip(made.ids, pixels, strict=True):
        label, _, turn = name.partition("/")
        found[int(label), int(turn or 0)] = image
    return found


def _about(folder: Path) -> dict[str, Any]:
    told = read_document(folder / "attack.json")
    return {"folder": str(folder), **{name: told[name] for name in ("attack", "config", "seed") if name in told}}

"""The answers to a blind study, its key, and what they say: whose reconstructions come closer, and how surely."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from splitleak.config import Config
from splitleak.measures.proportion import wilson

Side = Literal["left", "right"]


class Vote(Config):
    """One answer; no choice where time ran out."""

    pair: int = Field(ge=0)
    choice: Side | None
    seconds: float | None = Field(default=None, ge=0, description="that it took, where somebody measured")


class Votes(Config):
    """What a page saves of one person, or of a classifier in a person's place."""

    study: str
    voter: str = ""
    votes: tuple[Vote, ...]


class KeyPair(Config):
    """What a pair of the page shows: the class, which of its reconstructions, and whose stands on the left."""

    pair: int
    label: int
    turn: int
    left: Literal["a", "b"]


class Key(Config):
    """What the page does not tell."""

    study: str
    a: dict[str, Any]
    b: dict[str, Any]
    seed: int
    pairs: tuple[KeyPair, ...]


def score_votes(files: Sequence[Path], key_file: Path) -> dict[str, Any]:
    """How often each side was chosen, with Wilson's 95 % interval; a JSON document.

    The interval takes answers for independent, which several of one person, or to one pair, are not quite: look at
    ``voters`` and ``classes``, which give the share of A by each. Unanswered pairs count for nobody.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is none of these, votes are of another study, one file answers a pair twice, or nobody chose.
    """
    key = Key.read(key_file)
    pairs = {each.pair: each for each in key.pairs}
    chosen: list[tuple[str, int, bool]] = []  # voter, class, whether it was A
    unanswered = 0
    for number, file in enumerate(files):
        given = Votes.read(file)
        answered = [vote.pair for vote in given.votes]
        if given.study != key.study or not set(answered) <= pairs.keys() or len(set(answered)) != len(answered):
            expected = f"votes of study {key.study}, one a pair"
            raise ValueError(f"{file}: expected {expected}, got study {given.study} and pairs {answered}")
        for vote in given.votes:
            if vote.choice is None:
                unanswered += 1
                continue
            pair = pairs[vote.pair]
            name = f"{number + 1} {given.voter}".strip()
            chosen.append((name, pair.label, (vote.choice == "left") == (pair.left == "a")))
    if not chosen:
        raise ValueError(f"expected at least one choice, got {len(files)} files with none")
    hits = sum(first for _, _, first in chosen)
    return {
        "study": key.study,
        "answers": len(chosen),
        "unanswered": unanswered,
        "a": {**key.a, **wilson(hits, len(chosen)).document()},
        "b": {**key.b, **wilson(len(chosen) - hits, len(chosen)).document()},
        "interval": "Wilson",
        "voters": _shares([(voter, first) for voter, _, first in chosen]),
        "classes": _shares([(str(label), first) for _, label, first in chosen]),
    }


def _shares(chosen: Sequence[tuple[str, bool]]) -> dict[str, dict[str, float]]:
    """Of each name, how often A was chosen and how many answers there are."""
    found = {}
    for name in dict.fromkeys(name for name, _ in chosen):
        firsts = [first for of, first in chosen if of == name]
        found[name] = {"a": sum(firsts) / len(firsts), "answers": len(firsts)}
    return found

"""The votes of a blind user study, its answer key, and its result: how often each attack was preferred."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from splitleak.config import Config
from splitleak.inputs import check_different
from splitleak.measures.proportion import wilson

Side = Literal["left", "right"]


class Vote(Config):
    """One answer; no choice where time ran out."""

    pair: int = Field(ge=0)
    choice: Side | None
    seconds: float | None = Field(default=None, ge=0, description="response time, if measured")


class Votes(Config):
    """The votes of one person, as the page saves them, or of a classifier."""

    study: str
    voter: str = ""
    votes: tuple[Vote, ...]


class KeyPair(Config):
    """Answer key of one pair: the class, the index of its reconstruction, and the attack on the left."""

    pair: int
    label: int
    turn: int
    left: Literal["a", "b"]


class Key(Config):
    """The answer key, which the page does not contain."""

    study: str
    a: dict[str, Any]
    b: dict[str, Any]
    seed: int
    pairs: tuple[KeyPair, ...]


def score_votes(files: Sequence[Path], key_file: Path) -> dict[str, Any]:
    """The share of votes for each attack, with Wilson's 95 % interval; a JSON document.

    The interval assumes independent answers; several by one person, or to one pair, are correlated: see ``voters`` and
    ``classes``, the share of A per voter and class. Unanswered pairs are not counted.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is invalid or given twice, votes are of another study, one file answers a pair twice, or
            there is no choice.
    """
    check_different(files, "files of votes")
    if twice := [file for file, count in Counter(file.read_bytes() for file in files).items() if count > 1]:
        same = [str(file) for file in files if file.read_bytes() == twice[0]]
        raise ValueError(f"expected different files of votes, got the same contents in {' and '.join(same)}")
    key = Key.read(key_file)
    pairs = {pair.pair: pair for pair in key.pairs}
    chosen: list[tuple[str, int, bool]] = []  # voter, class, whether it was A
    unanswered = 0
    for number, file in enumerate(files):
        votes = Votes.read(file)
        answered = [vote.pair for vote in votes.votes]
        if votes.study != key.study or not set(answered) <= pairs.keys() or len(set(answered)) != len(answered):
            expected = f"votes of study {key.study!r}, one a pair"
            raise ValueError(f"{file}: expected {expected}, got study {votes.study!r} and pairs {answered}")
        for vote in votes.votes:
            if vote.choice is None:
                unanswered += 1
                continue
            pair = pairs[vote.pair]
            name = f"{number + 1} {votes.voter}".strip()
            chosen.append((name, pair.label, (vote.choice == "left") == (pair.left == "a")))
    if not chosen:
        raise ValueError(f"{', '.join(map(str, files))}: expected at least one choice, got none")
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
    """The share of A and the number of answers, by name."""
    shares = {}
    for name in dict.fromkeys(name for name, _ in chosen):
        choices = [first for voter, first in chosen if voter == name]
        shares[name] = {"a": sum(choices) / len(choices), "answers": len(choices)}
    return shares

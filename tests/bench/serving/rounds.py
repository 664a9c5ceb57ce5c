"""Interleaved measuring: a round takes each way once, in an order of its own, and only its server runs meanwhile."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.serving.clients import Sender
from tests.bench.serving.contestants import Server

_WARM_UP = 3


@dataclass(frozen=True)
class Way:
    """A client's way to a server."""

    name: str
    server: Server
    send: Sender


@dataclass(frozen=True)
class Turn:
    """What one way took in one round, a request: milliseconds by the clock, and of the processor on either side."""

    ms: float
    server_ms: float
    client_ms: float

    @property
    def processor_ms(self) -> float:
        return self.server_ms + self.client_ms


def interleave(ways: Sequence[Way], rounds: int, calls: int, draw: random.Random) -> dict[str, list[Turn]]:
    """By way, its turn of ``calls`` requests in each of ``rounds``."""
    turns: dict[str, list[Turn]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in draw.sample(ways, len(ways)):
            with way.server.awake():
                way.send(_WARM_UP)
                before = way.server.cpu_s()
                sent = way.send(calls)
                server_ms = 1000 * (way.server.cpu_s() - before) / calls
            turns[way.name].append(Turn(sent.ms, server_ms, sent.client_ms))
    return turns


def ratio(turns: Mapping[str, list[Turn]], one: str, other: str, part: str = "ms") -> float | None:
    """How often ``other``'s time ``one`` took: the median over rounds of each one's ratio; None if one is absent."""
    if not turns.get(one) or not turns.get(other):
        return None
    return statistics.median(getattr(a, part) / getattr(b, part) for a, b in zip(turns[one], turns[other], strict=True))


def medians(turns: Mapping[str, list[Turn]]) -> dict[str, dict[str, float]]:
    """By way, the median over rounds of each figure."""
    parts = ("ms", "server_ms", "client_ms")
    return {
        name: {part: statistics.median(getattr(turn, part) for turn in taken) for part in parts}
        for name, taken in turns.items()
    }

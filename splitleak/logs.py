"""Logging and progress bars, both on standard error; standard output is for results alone."""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

_Item = TypeVar("_Item")

Report = Callable[[str, float, int, Mapping[str, float]], None]
"""Progress callback: name of the task, steps done, total steps, and the latest metrics.

Within a step, such as an epoch, it is called with the part that is done and without metrics.
"""


def silent(name: str, done: float, total: int, figures: Mapping[str, float]) -> None:
    """A `Report` that does nothing."""


def reported(items: Iterable[_Item], name: str, total: int, report: Report) -> Iterator[_Item]:
    """Yields ``items``, ``total`` of them, and reports before each how many there were."""
    for done, item in enumerate(items):
        report(name, done, total, {})
        yield item


_EVERY_S = 5.0
# All but the tab and the end of a line; and what changes the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """``text`` with control characters written out, so that a name in it cannot steer the terminal.

    >>> printable(f"red{chr(27)}[31m") == "red" + chr(92) + "x1b[31m"
    True
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def configure(level: str = "warning") -> None:
    """Sends log lines of ``level`` and above to standard error, with time and process name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # of a broken image: what matters of it is raised


@contextmanager
def progress(label: str) -> Iterator[Report]:
    """A `Report` that draws a bar on a terminal, prints a line every few seconds elsewhere, and feeds a tracker."""
    from splitleak.trackers import tracking

    with tracking(label) as track, _shown_progress(label) as show:

        def both(name: str, done: float, total: int, figures: Mapping[str, float]) -> None:
            show(name, done, total, figures)
            track(name, done, total, figures)

        yield both


@contextmanager
def _shown_progress(label: str) -> Iterator[Report]:
    from rich.console import Console  # a fault on the command line is told without it, and sooner
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, markup=False, emoji=False)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, TextColumn("{task.fields[figures]}"), console=console) as bar:
            task = bar.add_task(printable(label), total=None, figures="")

            def draw(name: str, done: float, total: int, figures: Mapping[str, float]) -> None:
                bar.update(task, description=printable(f"{label} {name}"), completed=done, total=total)
                if figures:  # else those of the last step stay
                    bar.update(task, figures=_shown(figures))

            yield draw
        return
    last = time.monotonic()
    began: dict[str, tuple[float, float]] = {}  # of each task: steps done when it was first heard of, and when
    latest: dict[str, float] = {}  # steps done

    def say(name: str, done: float, total: int, figures: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if done < latest.get(name, done):  # another task of that name
            del began[name]
        latest[name] = done
        first, since = began.setdefault(name, (done, now))
        if done == total or now - last >= _EVERY_S:
            last = now
            left = clock((now - since) * (total - done) / (done - first)) if first < done < total else ""
            steps = f"{done:.1f}" if done % 1 else f"{done:.0f}"
            parts = (f"{label} {name} {steps}/{total}", _shown(figures), left and f" left {left}")
            console.print(printable(" ".join(filter(None, parts))), highlight=False, soft_wrap=True)

    yield say


def clock(seconds: float) -> str:
    """A time as minutes and seconds, or hours, minutes and seconds.

    >>> clock(61), clock(3600)
    ('1:01', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _shown(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())

"""Sends the figures of trainings, attacks and campaigns to an experiment tracker: TensorBoard or MLflow, both extras.

The one hook is the progress report (`splitleak.logs`): what a bar shows, a tracker keeps. ``SPLITLEAK_LOG_TO`` names
it, so that the processes of a campaign have it, too: ``tensorboard:FOLDER`` or ``mlflow:URI``.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from splitleak.tables import Table

LOG_TO = "SPLITLEAK_LOG_TO"

Track = Callable[[str, float, int, Mapping[str, float]], None]
"""Takes what a progress report does: name of the task, steps done, total steps, and the latest metrics."""

_LOGGER = logging.getLogger(__name__)
_UNSAFE = re.compile(r"[^\w./ -]+")  # in the name of a run or of a figure


class _Run(Protocol):
    """One run of a tracker."""

    def log(self, name: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, place: str, label: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(place) / label))

    def log(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, place: str, label: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=place)
        known = self._client.get_experiment_by_name("splitleak")
        experiment = known.experiment_id if known else self._client.create_experiment("splitleak")
        self._run = self._client.create_run(experiment, run_name=label).info.run_id

    def log(self, name: str, value: float, step: int) -> None:
        self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


TRACKERS: Table[Callable[[str, str], _Run]] = Table("tracker", {"tensorboard": _TensorBoard, "mlflow": _MLflow})


def check_tracker(to: str) -> str:
    """``to`` if it names a tracker and a place.

    Raises:
        ValueError: It does not.
    """
    name, colon, place = to.partition(":")
    if not colon or not place:
        raise ValueError(f"expected a tracker and a place, such as tensorboard:runs/log or mlflow:URI, got {to!r}")
    TRACKERS.known(name)
    return to


@contextmanager
def tracking(label: str) -> Iterator[Track]:
    """What sends figures of a progress report to the environment's tracker, as one run named ``label``; else silent.

    A task that begins again under its name, as the next member of an ensemble does, has a number: ``attack 2``.
    A tracker that fails later is told of in the log and sent no more: it ends no training.

    Raises:
        RuntimeError: The tracker's package is not installed, or its place cannot be reached or written to.
        ValueError: The environment names no tracker.
    """
    to = os.environ.get(LOG_TO)
    if not to:
        yield lambda task, done, total, figures: None
        return
    name, _, place = check_tracker(to).partition(":")
    try:
        run = TRACKERS.choose(name)(place, _UNSAFE.sub("_", label))
    except ModuleNotFoundError as error:
        expected = f"expected the package of the tracker {name}: pip install 'splitleak[{name}]'"
        raise RuntimeError(f"{expected} ({error})") from None
    except Exception as error:  # each package has its own
        raise RuntimeError(f"expected a tracker that takes figures at {to}, but {error}") from None
    lost = False
    begun: dict[str, tuple[int, float]] = {}  # of each task: how often, and the steps that its latest figures are of

    @contextmanager
    def survived() -> Iterator[None]:
        nonlocal lost
        try:
            yield
        except Exception as error:
            if not lost:
                _LOGGER.error("%s: figures of %s are not kept from here on: %s", to, label, error)
            lost = True

    def keep(task: str, done: float, total: int, figures: Mapping[str, float]) -> None:
        if figures:
            times, before = begun.get(task, (1, -1))
            begun[task] = times + (done <= before), done
            task = f"{task} {begun[task][0]}" if begun[task][0] > 1 else task
        with survived():
            for figure, value in figures.items() if not lost else ():
                run.log(_UNSAFE.sub("_", f"{task}/{figure}" if task else figure), value, int(done))

    try:
        yield keep
    finally:
        with survived():
            run.close()

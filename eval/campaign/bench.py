"""Where a campaign's jobs are done: the store, the processes they may start, and the share of the machine each has."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from splitleak.artifacts import write_json
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.processes import Children, service
from splitleak.eval.campaign.store import Store
from splitleak.eval.record.metrics import headline
from splitleak.eval.record.schema import Record

_START_S = 180.0
_ANYWHERE = "127.0.0.1:0"

Figures = Mapping[str, str]
"""What a finished job has to show, by its name: an accuracy, or scores."""


def shown_figures(record: Record) -> Figures:
    """The scores of a record that tables show."""
    return {metric.label: metric.text(value) for metric, value in headline(record)}


@dataclass(frozen=True)
class Bench:
    """Where jobs are done, and with what."""

    store: Store
    children: Children
    device: str = "auto"
    threads: int = 1
    known: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # for judges, see `class_figures`

    def run(self, job: Job, *arguments: object) -> dict[str, Any]:
        """Runs a command to its end, its errors in the job's log."""
        return self.children.run([str(argument) for argument in arguments], self.store.log(job))

    @contextmanager
    def serving(self, job: Job, *arguments: object, patience_s: float = _START_S) -> Iterator[str]:
        """The address of a service that runs while the block does, on a port of its own choice.

        ``patience_s`` is how long it may take to listen: an edge streams its images first.
        """
        given = [*map(str, arguments), "--listen", _ANYWHERE]
        with service(given, self.store.log(job), self.children) as started:
            yield str(started.wait_for("listening", patience_s)["address"])

    def written(self, output: Path, document: Mapping[str, Any], what: str = "config") -> Path:
        """Writes what a command is told in a file, beside its output, and returns the file."""
        path = output.with_name(f"{output.name.removesuffix('.json')}.{what}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
        return path

    def computing(self) -> tuple[str, ...]:
        """The options of a command that computes."""
        return ("--device", self.device, "--threads", str(self.threads))

    def below(self, path: str) -> Path:
        """A path of a job's settings."""
        return self.store.folder / path

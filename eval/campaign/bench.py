"""The resources of a campaign's jobs: the store, child processes, device and threads; and the commands they run."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from splitleak.artifacts import write_json
from splitleak.attacker.outputs import Reconstructions
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign.plan import Job
from splitleak.eval.campaign.processes import Children, service
from splitleak.eval.campaign.store import Store
from splitleak.eval.record.metrics import headline
from splitleak.eval.record.schema import Record
from splitleak.outputs import beside
from splitleak.plugins import named

_START_S = 180.0
_ANYWHERE = "127.0.0.1:0"

Figures = Mapping[str, str]
"""Results of a finished job by name, for its log line: an accuracy, or scores."""


def shown_figures(record: Record) -> Figures:
    """The scores of a record that tables show."""
    return {metric.label: metric.text(value) for metric, value in headline(record)}


def check_unchanged(source: Path | str, what: str, *, planned: str, found: str) -> None:
    """Refuses what is the user's own and is read hours after its digest went into the ids of jobs.

    Raises:
        ValueError: Its digest is another now.
    """
    if found != planned:
        raise ValueError(f"{source}: expected the {what} that the campaign was planned with, got another")


def check_code(job: Job) -> None:
    """Refuses code that is not ours and was edited after its digest went into the ids of jobs.

    Raises:
        ValueError: What the job, or one that it needs, was planned with is another now.
    """
    for name, planned in job.code.items():
        found = [plugin.code_digest() for plugin in named(name)]
        check_unchanged(name, "plug-in", planned=planned, found=planned if planned in found else "another")


@dataclass(frozen=True)
class Bench:
    """The resources that jobs run with."""

    store: Store
    children: Children
    device: str = "auto"
    threads: int = 1
    cache: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # of judges, see `class_figures`

    def run(self, job: Job, *arguments: object) -> dict[str, Any]:
        """Runs a command to its end, its stderr appended to the job's log; returns its JSON result."""
        return self.children.run([str(argument) for argument in arguments], self.store.log(job))

    def make(
        self, job: Job, *arguments: object, out: Path | None = None, config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Runs a command that writes the job's output.

        Args:
            job: The job.
            arguments: The command and its options, without ``--out`` and ``--config``.
            out: What the command writes, where that is not the job's output but the folder around it.
            config: Settings of the command, passed in a file next to ``out``.
        """
        out = out or self.store.path(job)
        settings = () if config is None else ("--config", self.written(out, config))
        return self.run(job, *arguments, "--out", out, *settings)

    def attack(self, job: Job, command: str, *given: object) -> None:
        """Runs the attack of a cell; ``given`` are the options for the attacker's knowledge."""
        cell, config = job.settings, self.written(self.store.path(job), job.settings["settings"])
        attack = ("--attack", cell["attack"], "--config", config, "--preset", cell["preset"], "--seed", job.seed)
        self.run(job, command, *attack, "--out", self.attacked(job), *given, *self.computing())

    def attacked(self, job: Job) -> Path:
        """Folder of what the attack of a cell rebuilt."""
        return self.store.path(job).with_name("attack")

    def has_attacked(self, job: Job, ledger: Path | None = None) -> bool:
        """Whether the attack of a cell is there, of a run that was stopped before its score.

        One on another stream than that of the ``ledger`` is removed: what victims sent was captured anew since.
        """
        attacked = self.attacked(job)
        if not attacked.exists():
            return False
        if ledger is None:
            return True
        rebuilt = Reconstructions.load(attacked / "reconstructions.npz")
        if Ledger.read(ledger).places.keys() >= set(rebuilt.ids):
            return True
        shutil.rmtree(attacked.rename(beside(attacked, "partial")))
        return False

    @contextmanager
    def serving(self, job: Job, *arguments: object, patience_s: float = _START_S) -> Iterator[str]:
        """Runs a service while the block does, on a free port, and yields its address.

        Args:
            job: The job, whose log gets the service's stderr.
            arguments: The command and its options, without ``--listen``.
            patience_s: Seconds until it listens, at most; an edge streams its images first.
        """
        given = [*map(str, arguments), "--listen", _ANYWHERE]
        with service(given, self.store.log(job), self.children) as started:
            yield str(started.wait_for("listening", patience_s)["address"])

    def written(self, output: Path, document: Mapping[str, Any], what: str = "config") -> Path:
        """Writes settings of a command to a file next to its output, and returns the file."""
        path = output.with_name(f"{output.name.removesuffix('.json')}.{what}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
        return path

    def computing(self) -> tuple[str, ...]:
        """The options for device and threads."""
        return ("--device", self.device, "--threads", str(self.threads))

    def below(self, path: str) -> Path:
        """The absolute path for one in a job's settings."""
        return self.store.folder / path

    def inputs(self, job: Job, *names: str) -> list[Path]:
        """The paths under these names in the job's settings."""
        return [self.below(job.settings[name]) for name in names]

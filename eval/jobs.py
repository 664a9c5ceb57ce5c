"""What each kind of job runs. The attacker's process is given the attacker's files alone; the judge is this process."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from eval.plan import Job, Kind
from eval.processes import Children, Service, service
from eval.record import make_record
from eval.store import Store
from splitleak.artifacts import write_json, written_folder
from splitleak.seeding import derive_seed

_START_S = 180.0
_STREAM_S = 3600.0
_ANYWHERE = "127.0.0.1:0"

Figures = Mapping[str, float]
"""What a finished job has to show: an accuracy, or scores."""


@dataclass(frozen=True)
class Bench:
    """Where jobs are done, and with what."""

    store: Store
    children: Children
    device: str = "auto"
    threads: int = 1

    def do(self, job: Job) -> Figures:
        """Makes the job's output, whole or not at all.

        Raises:
            Exception: Whatever went wrong; what a child process had to say of it is in the job's log.
        """
        self.store.log(job).parent.mkdir(parents=True, exist_ok=True)
        return _DO[job.kind](self, job, job.settings)

    def run(self, job: Job, *arguments: object) -> dict[str, Any]:
        """Runs a command to its end, its errors in the job's log."""
        return self.children.run([str(argument) for argument in arguments], self.store.log(job))

    def computing(self) -> tuple[str, ...]:
        """The options of a command that computes."""
        return ("--device", self.device, "--threads", str(self.threads))

    def below(self, path: str) -> Path:
        """A path of a job's settings."""
        return self.store.folder / path


def _split(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    counts = (f"--{name}={value}" for name, value in settings["split"].items() if value is not None)
    root = () if settings["data_root"] is None else ("--data-root", settings["data_root"])
    shape = ("--size", settings["size"], "--channels", settings["channels"])
    bench.run(
        job, "split", "--out", bench.below(settings["folder"]), "--data", settings["data"], *root, *shape, *counts
    )
    return {}


def _train(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    out = bench.store.path(job)
    config = out.with_name(f"{out.name}.json")
    write_json(config, settings["target"])
    images = bench.below(settings["images"])
    made = bench.run(job, "train", "--out", out, "--images", images, "--config", config, *bench.computing())
    return {"accuracy": made["accuracy"]}


def _capture(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """Cloud, tap and edge as services; the victims' stream; then the attacker's own images, through the same edge."""
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    with written_folder(bench.store.path(job)) as partial, ExitStack() as stack:

        def start(*arguments: object) -> Service:
            given = [*map(str, arguments), "--listen", _ANYWHERE]
            return stack.enter_context(service(given, bench.store.log(job), bench.children))

        cloud = start("cloud", artifact / "cloud", *bench.computing())
        address = cloud.wait_for("listening", _START_S)["address"]
        capture = partial / "tap.capture"
        address = start("tap", "--upstream", address, "--capture", capture).wait_for("listening", _START_S)["address"]
        noise = derive_seed(job.seed, "wire", settings["views"], settings["draws"])
        victims = ("--images", images / "victims.npz", "--ledger", partial / "ledger.json")
        repeated = ("--repeat", settings["views"], "--noise-seed", noise)
        edge = start("edge", artifact / "edge", "--cloud", address, *victims, *repeated, *bench.computing())
        edge.wait_for("streamed", _STREAM_S)
        address = edge.wait_for("listening", _START_S)["address"]
        own = ("--public", images / "public.npz", "--draws", settings["draws"], "--views", settings["views"])
        bench.run(job, "query", "--capture", capture, "--edge", address, *own, "--out", partial / "pairs.npz")
    return {}


def _cell(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    capture, out = bench.below(settings["capture"]), bench.store.path(job)
    attacked = out.with_name("attack")
    if not attacked.exists():
        config = out.with_name("settings.json")
        write_json(config, settings["settings"])
        head = ("--head", artifact / "cloud")
        known = {
            "query": ("--pairs", capture / "pairs.npz"),
            "encoder": ("--encoder", artifact / "edge"),
            "head": head,
            "fresh_encoder": head,  # the cloud's half says which network it is a half of
        }
        given = dict(known[need] for need in settings["needs"] if need in known)
        bench.run(
            *(job, "attack", "--attack", settings["attack"], "--config", config, "--preset", settings["preset"]),
            *("--capture", capture / "tap.capture", "--views", settings["views"], "--public", images / "public.npz"),
            *("--out", attacked, "--seed", job.seed, *bench.computing(), *chain.from_iterable(given.items())),
        )
    ledger, truth = capture / "ledger.json", images / "victims.npz"
    record = make_record(artifact, attacked, truth, ledger, out, 0, cell=settings["cell"])
    return {metric: record["score"][metric]["mean"] for metric in ("mse", "ssim")}


def _leakage(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    where = (artifact, "--images", images, "--out", bench.store.path(job))
    bench.run(job, "leakage", *where, "--seed", job.seed, *bench.computing())
    return {}


_DO: dict[Kind, Callable[[Bench, Job, Mapping[str, Any]], Figures]] = {
    "split": _split,
    "train": _train,
    "capture": _capture,
    "cell": _cell,
    "leakage": _leakage,
}

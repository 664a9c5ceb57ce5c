"""The jobs of a campaign against classes other than attacks: poisoned images, and the measures of its targets."""

from collections.abc import Callable

from splitleak.artifacts import provenance, write_json
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import load_whole
from splitleak.eval.campaign.bench import Bench, Figures
from splitleak.eval.campaign.classes.plan import Measure
from splitleak.eval.campaign.plan import Job
from splitleak.eval.targets.backdoor import recorded_backdoor
from splitleak.eval.targets.confidence import target_figures
from splitleak.seeding import resolve_device


def do_poison(bench: Bench, job: Job) -> None:
    """Poisons some training images with a backdoor's trigger."""
    images, folder = bench.inputs(job, "images", "folder")
    bench.make(job, "poison", images, out=folder, config=job.settings["poison"])


def do_target_measure(bench: Bench, job: Job) -> Figures | None:
    """Runs the measure that the job's settings name, and writes its result to a JSON file."""
    measure: Measure = job.settings["measure"]
    return _DO[measure](bench, job)


def _target(bench: Bench, job: Job) -> Figures:
    artifact, images = bench.inputs(job, "artifact", "images")
    figures = target_figures(artifact, images, resolve_device(bench.device))
    write_json(bench.store.path(job), figures)
    return {"accuracy %": f"{100 * figures['test']['accuracy']:.1f}"}


def _robustness(bench: Bench, job: Job) -> None:
    artifact, images = bench.inputs(job, "artifact", "images")
    bench.make(job, "robustness", artifact, "--images", images, *bench.computing(), config=job.settings["config"])


def _extraction(bench: Bench, job: Job) -> None:
    attacked, artifact, images = bench.inputs(job, "attacked", "artifact", "images")
    given = (attacked, "--artifact", artifact, "--train-images", images / "train.npz")
    bench.make(job, "extraction", *given, *bench.computing(), config=job.settings["config"])


def _backdoor(bench: Bench, job: Job) -> None:
    artifact, images = bench.inputs(job, "artifact", "images")
    model = load_whole(artifact, resolve_device(bench.device), seed=0)
    figures = recorded_backdoor(model, Splits.load(images))
    assert figures is not None
    write_json(bench.store.path(job), {**figures, "provenance": provenance()})


def _training_time(bench: Bench, job: Job) -> None:
    settings, [images] = job.settings, bench.inputs(job, "images")
    designs = bench.written(bench.store.path(job), settings["targets"], "targets")
    given = (designs, "--images", images, "--baseline", settings["baseline"], "--threads", bench.threads)
    bench.make(job, "training-time", *given, config=settings["config"])


_DO: dict[Measure, Callable[[Bench, Job], Figures | None]] = {
    "target": _target,
    "robustness": _robustness,
    "extraction": _extraction,
    "backdoor": _backdoor,
    "training time": _training_time,
}

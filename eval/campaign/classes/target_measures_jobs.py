"""The jobs beside the attacks of a campaign against classes: poisoned images, and one measure of a target each."""

from collections.abc import Callable, Mapping
from typing import Any

from splitleak.artifacts import provenance, write_json
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import load_whole
from splitleak.eval.campaign.bench import Bench, Figures
from splitleak.eval.campaign.plan import Job
from splitleak.eval.targets.backdoor import recorded_backdoor
from splitleak.eval.targets.confidence import target_figures
from splitleak.seeding import resolve_device


def do_poison(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """Puts a backdoor's trigger on some training images."""
    images, folder = bench.below(settings["images"]), bench.below(settings["folder"])
    bench.run(job, "poison", images, "--out", folder, "--config", bench.written(folder, settings["poison"]))
    return {}


def do_besides(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """Measures what the job's settings name, and writes it to one JSON file."""
    return _DO[settings["measure"]](bench, job, settings)


def _target(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    found = target_figures(artifact, images, resolve_device(bench.device))
    write_json(bench.store.path(job), found)
    return {"accuracy %": f"{100 * found['test']['accuracy']:.1f}"}


def _robustness(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    artifact, given = bench.below(settings["artifact"]), ("--images", bench.below(settings["images"]))
    bench.run(job, "robustness", artifact, *given, *_asked(bench, job, settings["config"]))
    return {}


def _extraction(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    attacked, artifact = bench.below(settings["attacked"]), bench.below(settings["artifact"])
    private = bench.below(settings["images"]) / "train.npz"
    given = (attacked, "--artifact", artifact, "--train-images", private)
    bench.run(job, "extraction", *given, *_asked(bench, job, settings["config"]))
    return {}


def _backdoor(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    splits = Splits.load(bench.below(settings["images"]))
    whole = load_whole(bench.below(settings["artifact"]), resolve_device(bench.device), seed=0)
    found = recorded_backdoor(whole, splits)
    assert found is not None
    write_json(bench.store.path(job), {**found, "provenance": provenance()})
    return {}


def _training_time(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    out = bench.store.path(job)
    designs, config = bench.written(out, settings["targets"], "targets"), bench.written(out, settings["config"])
    given = (designs, "--images", bench.below(settings["images"]), "--baseline", settings["baseline"], "--out", out)
    bench.run(job, "training-time", *given, "--config", config, "--threads", bench.threads)
    return {}


_DO: dict[str, Callable[[Bench, Job, Mapping[str, Any]], Figures]] = {
    "target": _target,
    "robustness": _robustness,
    "extraction": _extraction,
    "backdoor": _backdoor,
    "training time": _training_time,
}


def _asked(bench: Bench, job: Job, config: Mapping[str, Any]) -> tuple[object, ...]:
    """The options of a command that measures: where to write, and all its settings."""
    out = bench.store.path(job)
    return ("--out", out, "--config", bench.written(out, config), *bench.computing())

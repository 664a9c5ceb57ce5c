"""What each kind of job runs. The attacker's process is given the attacker's files alone; the judge is this process."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import Any

from splitleak.artifacts import written_folder
from splitleak.config import merged
from splitleak.eval.campaign.bench import Bench, Figures, shown_figures
from splitleak.eval.campaign.classes.target_measures_jobs import do_besides, do_poison
from splitleak.eval.campaign.plan import Job, Kind
from splitleak.eval.campaign.predictions.jobs import do_predict, do_prediction_cell, do_prior, do_purify
from splitleak.eval.record.schema import FeaturesPlace
from splitleak.eval.record.victims import make_record
from splitleak.seeding import derive_seed

_STREAM_S = 3600.0


def do(bench: Bench, job: Job) -> Figures:
    """Makes the job's output, whole or not at all.

    Raises:
        Exception: Whatever went wrong; what a child process had to say of it is in the job's log.
    """
    bench.store.log(job).parent.mkdir(parents=True, exist_ok=True)
    return _DO[job.kind](bench, job, job.settings)


def _split(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    folder = bench.below(settings["folder"])
    root = () if settings["data_root"] is None else ("--data-root", settings["data_root"])
    shape = ("--size", settings["size"], "--channels", settings["channels"])
    config = bench.written(folder, settings["split"])
    bench.run(job, "split", "--out", folder, "--data", settings["data"], *root, *shape, "--config", config)
    return {}


def _train(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    out = bench.store.path(job)
    config = bench.written(out, _started(bench, settings))
    images = bench.below(settings["images"])
    made = bench.run(job, "train", "--out", out, "--images", images, "--config", config, *bench.computing())
    return {"accuracy %": f"{100 * made['accuracy']:.1f}"}


def _started(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The target's settings, in which a transfer that names no artifact has the campaign's own."""
    if "pretrained" not in settings:
        return dict(settings["target"])
    source = {"config": {"pretrained": str(bench.below(settings["pretrained"]))}}

    def started(defense: Mapping[str, Any]) -> Mapping[str, Any]:
        own = defense["name"] == "transfer" and defense["config"]["pretrained"] is None
        return merged(defense, source) if own else defense

    return {**settings["target"], "defenses": [started(each) for each in settings["target"]["defenses"]]}


def _capture(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """Cloud, tap and edge as services; the victims' stream; then the attacker's own images, through the same edge."""
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    with written_folder(bench.store.path(job)) as partial, ExitStack() as stack:
        capture, computing = partial / "tap.capture", ("--engine", "torch", *bench.computing())
        # The capture holds what the trained encoder gives, bit for bit.
        cloud = stack.enter_context(bench.serving(job, "cloud", artifact / "cloud", *computing))
        tap = stack.enter_context(bench.serving(job, "tap", "--upstream", cloud, "--capture", capture))
        noise = derive_seed(job.seed, "wire", settings["views"], settings["draws"])
        victims = ("--images", images / "victims.npz", "--ledger", partial / "ledger.json")
        repeated = ("--repeat", settings["views"], "--noise-seed", noise)
        sent = ("--codec", settings.get("codec", "fp32"))
        given = ("edge", artifact / "edge", "--cloud", tap, *victims, *repeated, *sent, *computing)
        edge = stack.enter_context(bench.serving(job, *given, patience_s=_STREAM_S))
        own = ("--public", images / "public.npz", "--draws", settings["draws"], "--views", settings["views"])
        bench.run(job, "query", "--capture", capture, "--edge", edge, *own, "--out", partial / "pairs.npz")
    return {}


def _cell(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    if "capture" not in settings:
        return do_prediction_cell(bench, job, settings)
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    capture, out = bench.below(settings["capture"]), bench.store.path(job)
    attacked = out.with_name("attack")
    if not attacked.exists():
        config = bench.written(out, settings["settings"])
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
    place = FeaturesPlace.parse({**settings["cell"], "id": job.key}, source=job.id)
    return shown_figures(make_record(artifact, attacked, truth, ledger, out, cell=place))


def _leakage(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    where = (artifact, "--images", images, "--out", bench.store.path(job))
    bench.run(job, "leakage", *where, "--seed", job.seed, *bench.computing())
    return {}


def _latency(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """One image in flight through edge and cloud of every target in turn; it needs all other jobs: none disturbs it."""
    artifacts = map(bench.below, settings["artifacts"])
    bench.run(job, "latency", *artifacts, "--no-alternatives", "--out", bench.store.path(job))
    return {}


_DO: dict[Kind, Callable[[Bench, Job, Mapping[str, Any]], Figures]] = {
    "split": _split,
    "train": _train,
    "purify": do_purify,
    "prior": do_prior,
    "capture": _capture,
    "predict": do_predict,
    "cell": _cell,
    "leakage": _leakage,
    "latency": _latency,
    "poison": do_poison,
    "besides": do_besides,
}

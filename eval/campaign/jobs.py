"""Runs each kind of job. The attacker's process gets the attacker's files only; the judge is this process."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from splitleak.artifacts import written_folder
from splitleak.config import merged
from splitleak.defenses.artifact import ARTIFACT, packed_parts
from splitleak.eval.campaign.bench import Bench, Figures, check_code, check_unchanged, shown_figures
from splitleak.eval.campaign.classes.target_measures_jobs import do_poison, do_target_measure
from splitleak.eval.campaign.config import ImportedEntry, fingerprint
from splitleak.eval.campaign.plan import Job, Kind, split_job
from splitleak.eval.campaign.predictions.jobs import do_figure_cell, do_open, do_predict, do_prior, do_purify
from splitleak.eval.record.schema import FeaturesPlace
from splitleak.eval.record.victims import make_record
from splitleak.outputs import FolderKind
from splitleak.seeding import derive_seed
from splitleak.trackers import tracking

CAPTURE = FolderKind("campaign run", "ledger.json", ("tap.capture", "pairs.npz"))
_STREAM_S = 3600.0
_LIMITS = {"crossings": "--crossings", "answers": "--draws", "max_queries": "--max-queries"}


def do(bench: Bench, job: Job) -> Figures:
    """Runs a job; its output is written completely or not at all.

    Raises:
        Exception: The job failed; the stderr of its child processes is in its log.
    """
    bench.store.log(job).parent.mkdir(parents=True, exist_ok=True)
    check_code(job)
    bench.store.clear_half(job)
    figures = _DO[job.kind](bench, job) or {}
    if figures:
        with tracking(f"{bench.store.folder.name}/{job.kind} {job.label}") as track:
            track("", 0, 0, {name: float(value) for name, value in figures.items()})
    return figures


def _split(bench: Bench, job: Job) -> None:
    settings, [folder] = job.settings, bench.inputs(job, "folder")
    found = split_job(settings["name"], fingerprint(settings["data"]), settings, settings["split"], job.seed)
    check_unchanged(settings["data"], "data set", planned=job.key, found=found.key)
    root = () if settings["data_root"] is None else ("--data-root", settings["data_root"])
    size = settings["size"]
    sides = size if isinstance(size, int) else "x".join(map(str, size))
    images = ("--data", settings["data"], *root, "--size", sides, "--channels", settings["channels"])
    bench.make(job, "split", *images, out=folder, config=settings["split"])


def _import(bench: Bench, job: Job) -> None:
    """Cuts an ONNX file, or copies an artifact."""
    settings = job.settings
    if settings["onnx"] is not None:
        about = {key: settings[key] for key in ("name", "onnx", "cut", "network")}
        found = ImportedEntry.parse(about, source=job.label).digest
        check_unchanged(Path(settings["onnx"]), "network", planned=settings["digest"], found=found)
        given = ("--onnx", settings["onnx"], "--cut", settings["cut"])
        bench.make(job, "import", *given, config=settings["network"])
        return
    source = Path(settings["artifact"])
    with written_folder(bench.store.path(job), ARTIFACT) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
        found = ImportedEntry(name=settings["name"], artifact=partial).digest
        check_unchanged(source, "network", planned=settings["digest"], found=found)


def _train(bench: Bench, job: Job) -> Figures:
    if Path(job.output).is_absolute():
        raise ValueError(f"expected the target {job.output}, which is none of this campaign's own, to stay whole")
    [images] = bench.inputs(job, "images")
    own = ("--model", *bench.inputs(job, "imported")) if "imported" in job.settings else ()
    target = _target(bench, job.settings)
    trained = bench.make(job, "train", "--images", images, *own, *bench.computing(), config=target)
    return {"accuracy %": f"{100 * trained['accuracy']:.1f}"}


def _target(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The target's settings; a `transfer` defense without an artifact starts from the campaign's pre-trained one."""
    if "pretrained" not in settings:
        return dict(settings["target"])
    source = {"config": {"pretrained": str(bench.below(settings["pretrained"]))}}

    def with_source(defense: Mapping[str, Any]) -> Mapping[str, Any]:
        own = defense["name"] == "transfer" and defense["config"]["pretrained"] is None
        return merged(defense, source) if own else defense

    return {**settings["target"], "defenses": list(map(with_source, settings["target"]["defenses"]))}


def _capture(bench: Bench, job: Job) -> None:
    """Runs cloud, tap and edge; streams the victims' images, then the attacker's own through the same edge."""
    settings, (artifact, images) = job.settings, bench.inputs(job, "artifact", "images")
    with written_folder(bench.store.path(job), CAPTURE) as partial, ExitStack() as stack:
        capture, computing = partial / "tap.capture", ("--engine", "torch", *bench.computing())
        # The capture holds the trained encoder's features bit for bit.
        cloud = stack.enter_context(bench.serving(job, "cloud", artifact / "cloud", *computing))
        tap = stack.enter_context(bench.serving(job, "tap", "--upstream", cloud, "--capture", capture))
        noise = derive_seed(job.seed, "wire", settings["views"], settings["draws"])
        victims = ("--images", images / "victims.npz", "--ledger", partial / "ledger.json")
        repeated = ("--repeat", settings["views"], "--noise-seed", noise)
        sent = ("--codec", settings.get("codec", "fp32"))
        given = ("edge", artifact / "edge", "--cloud", tap, *victims, *repeated, *sent, *computing)
        edge = stack.enter_context(bench.serving(job, *given, patience_s=_STREAM_S))
        averaging = settings.get("averaging", settings["views"])
        mirrored = ("--mirrored",) if settings.get("mirrored") else ()
        own = ("--public", images / "public.npz", "--draws", settings["draws"], "--views", averaging, *mirrored)
        bench.run(job, "query", "--capture", capture, "--edge", edge, *own, "--out", partial / "pairs.npz")


def _cell(bench: Bench, job: Job) -> Figures:
    if "capture" not in job.settings:
        return do_figure_cell(bench, job)
    settings, (artifact, images, capture) = job.settings, bench.inputs(job, "artifact", "images", "capture")
    attacked, ledger, truth = bench.attacked(job), capture / "ledger.json", images / "victims.npz"
    if not bench.has_attacked(job, ledger):
        head = ("--head", artifact / "cloud")
        known: dict[str, tuple[str, object]] = {
            "query": ("--pairs", capture / "pairs.npz"),
            "encoder": ("--encoder", artifact / "edge"),
            "head": head,
            "fresh_encoder": head,  # the architecture is recorded in the cloud half
        }
        needs = {*settings["needs"], *(("query",) if "encoder" in settings["needs"] else ())}  # a white box asks, too
        given = dict(known[need] for need in sorted(needs) if need in known)
        given |= {option: settings[name] for name, option in _LIMITS.items() if name in settings}
        seen = ("--capture", capture / "tap.capture", "--views", settings["views"], "--public", images / "public.npz")
        mirrored = ("--mirrored",) if settings.get("mirrored") else ()
        parts = packed_parts(artifact)
        packed = () if parts is None else ("--parts", "+".join("x".join(map(str, shape)) for shape in parts))
        bench.attack(job, "attack", *seen, *mirrored, *packed, *chain.from_iterable(given.items()))
    place = FeaturesPlace.parse({**settings["cell"], "id": job.key}, source=job.id)
    return shown_figures(make_record(artifact, attacked, truth, ledger, bench.store.path(job), cell=place))


def _leakage(bench: Bench, job: Job) -> None:
    artifact, images = bench.inputs(job, "artifact", "images")
    bench.make(job, "leakage", artifact, "--images", images, "--seed", job.seed, *bench.computing())


def _linkage(bench: Bench, job: Job) -> None:
    artifact, images = bench.inputs(job, "artifact", "images")
    bench.make(job, "linkage", artifact, "--images", images, *bench.computing(), config=job.settings["config"])


def _latency(bench: Bench, job: Job) -> None:
    """Measures all targets in turn, with one image in flight; see `Schedule`, which runs nothing beside it."""
    bench.make(job, "latency", *map(bench.below, job.settings["artifacts"]), "--no-alternatives")


_DO: dict[Kind, Callable[[Bench, Job], Figures | None]] = {
    "split": _split,
    "import": _import,
    "train": _train,
    "purify": do_purify,
    "prior": do_prior,
    "capture": _capture,
    "predict": do_predict,
    "cell": _cell,
    "leakage": _leakage,
    "linkage": _linkage,
    "latency": _latency,
    "poison": do_poison,
    "open": do_open,
    "besides": do_target_measure,
}

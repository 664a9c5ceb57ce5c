"""The jobs of a campaign of figures: purifier, prior, a prediction service with its clients, and attacks."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from splitleak.artifacts import write_json, written_folder
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.outputs import ATTACK
from splitleak.attacker.prior import PRIOR, Prior
from splitleak.datasets.splits import Splits
from splitleak.eval.campaign.bench import Bench, Figures, check_unchanged, shown_figures
from splitleak.eval.campaign.config import EmbedderEntry
from splitleak.eval.campaign.plan import Job
from splitleak.eval.record.classes import make_class_record
from splitleak.eval.record.open_set import open_splits
from splitleak.eval.record.schema import FigurePlace, Place, Record, Service, parse_place
from splitleak.eval.record.victims import make_record
from splitleak.eval.targets.service_quality import measure_service
from splitleak.outputs import FolderKind
from splitleak.seeding import derive_seed, resolve_device

PREDICTIONS = FolderKind("campaign run", "ledger.json", ("shared-*.npz", "pairs-*.npz", "service.json"))


def do_purify(bench: Bench, job: Job) -> None:
    """Trains the purifier of a target."""
    artifact, images = bench.inputs(job, "artifact", "images")
    given = (artifact, "--images", images, "--seed", job.seed, *bench.computing())
    bench.make(job, "purify", *given, config=job.settings["purify"])


def do_prior(bench: Bench, job: Job) -> None:
    """Trains the attacker's generator on public images, or takes one of the user's own."""
    if "folder" in job.settings["prior"]:
        source, planned = Path(job.settings["prior"]["folder"]), job.settings["prior"]["digest"]
        with _copied(source, bench.store.path(job), PRIOR) as partial:
            found = Prior.load(partial, torch.device("cpu")).digest
            check_unchanged(source, "prior", planned=planned, found=found)
        return
    [public] = bench.inputs(job, "public")
    bench.make(job, "prior", public, "--seed", job.seed, *bench.computing(), config=job.settings["prior"])


def do_open(bench: Bench, job: Job) -> None:
    """Makes the images of an open-set judge."""
    images, folder = bench.inputs(job, "images", "folder")
    open_splits(Splits.load(images)).save(folder)


def do_predict(bench: Bench, job: Job) -> Figures:
    """Runs a prediction service; victims classify their images and publish scores, the attacker sends its queries."""
    settings, (artifact, images) = job.settings, bench.inputs(job, "artifact", "images")
    policy, out = _policy(bench, job), bench.store.path(job)
    with written_folder(out, PREDICTIONS) as partial, _service(bench, job, artifact, policy) as address:
        shares = chain.from_iterable(("--share", share) for share in settings["shares"])
        bench.run(job, "predict", "--service", address, "--images", images / "victims.npz", *shares, "--out", partial)
        for kind, auxiliary in settings["auxiliaries"].items():
            own = ("--public", bench.below(auxiliary), "--draws", settings["draws"])
            bench.run(job, "query", "--service", address, *own, "--out", partial / f"pairs-{kind}.npz")
        noise, device = derive_seed(job.seed, "policy"), resolve_device(bench.device)
        quality = measure_service(artifact, policy, images / "test.npz", device, seed=noise)
        write_json(partial / "service.json", {**quality, "policy": settings["policy"]})
    return {"accuracy %": f"{100 * quality['accuracy']:.1f}"}


def _policy(bench: Bench, job: Job) -> dict[str, Any]:
    """The output policy of a job's service, with the folder of its purifier."""
    purifier = job.settings.get("purifier")
    return {**job.settings["policy"], "purifier": None if purifier is None else str(bench.below(purifier))}


@contextmanager
def _service(bench: Bench, job: Job, artifact: Path, policy: Mapping[str, Any]) -> Iterator[str]:
    """Runs a prediction service with an output policy, and yields its address."""
    document = bench.written(bench.store.path(job), policy, "policy")
    noise = derive_seed(job.seed, "policy")
    given = ("--policy", document, "--noise-seed", noise, "--engine", "torch", *bench.computing())
    with bench.serving(job, "cloud", artifact, "--whole", *given) as address:
        yield address


def do_figure_cell(bench: Bench, job: Job) -> Figures:
    """Attacks shared predictions, or the classes of a model; then judges what was rebuilt."""
    if "attacked" in job.settings:
        _take(bench, job)
    place = parse_place({**job.settings["cell"], "id": job.key}, source=job.id)
    of_classes = isinstance(place, FigurePlace) and place.kind == "classes"
    if not bench.has_attacked(job, None if of_classes else bench.below(job.settings["predictions"]) / "ledger.json"):
        _attack(bench, job)
    return shown_figures((_judged_classes if of_classes else _judged_victims)(bench, job, place))


def _attack(bench: Bench, job: Job) -> None:
    settings, (artifact, auxiliary) = job.settings, bench.inputs(job, "artifact", "auxiliary_images")
    given: list[object] = ["--public", auxiliary] if "public" in settings["needs"] else []
    if settings["predictions"] is not None:
        given += ["--pairs", bench.below(settings["predictions"]) / f"pairs-{settings['auxiliary']}.npz"]
    if "model" in settings["needs"]:
        given += ["--artifact", artifact]
    if "prior" in settings:
        given += ["--prior", bench.below(settings["prior"])]
    if "adaptive" in settings:
        given += ["--adaptive"]
    if "max_queries" in settings:
        given += ["--max-queries", settings["max_queries"]]
    if settings["cell"].get("kind", "victims") == "victims":
        shared = bench.below(settings["predictions"]) / f"shared-{settings['share'] or 'all'}.npz"
        bench.attack(job, "attack", *given, "--shared", shared)
    elif "query" in settings["needs"] and CLASS_ATTACKS[settings["attack"]].baseline and not _has_policy(settings):
        told = ("--labels-only",) if settings["policy"]["label_only"] else ()
        bench.attack(job, "invert", *given, "--oracle", artifact, *told)  # answers as the service does, and sooner
    elif settings["predictions"] is None and "query" in settings["needs"]:
        if CLASS_ATTACKS[settings["attack"]].access == "label" and not settings["policy"]["label_only"]:
            given += ["--labels-only"]
        with _service(bench, job, artifact, _policy(bench, job)) as address:
            bench.attack(job, "invert", *given, "--service", address)
    else:
        bench.attack(job, "invert", *given)


def _has_policy(settings: Mapping[str, Any]) -> bool:
    return bool(settings["cell"]["policy"] or settings["cell"]["purify"])


def _take(bench: Bench, job: Job) -> None:
    """Takes what a cell without an embedder has rebuilt, which is the same, if it is there."""
    [before], attacked = bench.inputs(job, "attacked"), bench.attacked(job)
    if before.is_dir() and not attacked.exists():
        with _copied(before, attacked, ATTACK):
            pass


@contextmanager
def _copied(source: Path, folder: Path, kind: FolderKind) -> Iterator[Path]:
    """Copies a folder, whole or not at all; the block looks at the copy, which becomes ``folder`` unless it raises."""
    with written_folder(folder, kind) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
        yield partial


def _judged_classes(bench: Bench, job: Job, place: Place) -> Record:
    artifact, images, evaluator = bench.inputs(job, "artifact", "images", "evaluator")
    others = images / "generic.npz"
    judges = None
    if "open_judge" in job.settings:
        judge, seen = bench.inputs(job, "open_judge", "open_images")
        judges = judge, seen
    embedder = EmbedderEntry.parse(job.settings["embedder"], source=job.id) if "embedder" in job.settings else None
    if embedder is not None:
        planned, found = job.settings["embedder_digest"], embedder.digest
        check_unchanged(embedder.onnx, "embedder", planned=planned, found=found)
    return make_class_record(
        artifact,
        bench.attacked(job),
        images / "train.npz",
        evaluator,
        bench.store.path(job),
        cell=place,
        others=others if others.is_file() else None,
        prior=bench.below(job.settings["prior"]) if "prior" in job.settings else None,
        open_judge=judges,
        embedder=None if embedder is None else (embedder.onnx, embedder.network),
        cache=bench.cache,
    )


def _judged_victims(bench: Bench, job: Job, place: Place) -> Record:
    artifact, images, predictions = bench.inputs(job, "artifact", "images", "predictions")
    [auxiliary] = bench.inputs(job, "auxiliary_images")
    evaluator = bench.below(job.settings["evaluator"]) if "evaluator" in job.settings else None
    return make_record(
        artifact,
        bench.attacked(job),
        images / "victims.npz",
        predictions / "ledger.json",
        bench.store.path(job),
        cell=place,
        evaluator=evaluator,
        auxiliary=job.settings["auxiliary"],
        auxiliary_images=auxiliary,
        service=Service.read(predictions / "service.json"),
    )

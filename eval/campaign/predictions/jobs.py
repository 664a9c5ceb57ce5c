"""The jobs of a campaign against predictions: a purifier, a service with its clients, an attack and its judge."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from splitleak.artifacts import write_json, written_folder
from splitleak.eval.campaign.bench import Bench, Figures, shown_figures
from splitleak.eval.campaign.plan import Job
from splitleak.eval.record.classes import make_class_record
from splitleak.eval.record.schema import FigurePlace, Service
from splitleak.eval.record.victims import make_record
from splitleak.eval.targets.service_quality import measure_service
from splitleak.seeding import derive_seed, resolve_device


def do_purify(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """Trains the purifier of a target."""
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    out = bench.store.path(job)
    where = (artifact, "--images", images, "--out", out)
    config = bench.written(out, settings["purify"])
    bench.run(job, "purify", *where, "--seed", job.seed, "--config", config, *bench.computing())
    return {}


def do_prior(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """Trains the attacker's generator on public images."""
    out = bench.store.path(job)
    config = bench.written(out, settings["prior"])
    given = ("prior", bench.below(settings["public"]), "--out", out, "--config", config)
    bench.run(job, *given, "--seed", job.seed, *bench.computing())
    return {}


def do_predict(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """A prediction service; the victims classify their images and publish; the attacker sends images of its own."""
    artifact, images = bench.below(settings["artifact"]), bench.below(settings["images"])
    purifier = None if settings["purifier"] is None else str(bench.below(settings["purifier"]))
    policy = {**settings["policy"], "purifier": purifier}
    out = bench.store.path(job)
    with written_folder(out) as partial, _service(bench, job, artifact, policy) as address:
        shares = chain.from_iterable(("--share", share) for share in settings["shares"])
        bench.run(job, "predict", "--service", address, "--images", images / "victims.npz", *shares, "--out", partial)
        for kind, auxiliary in settings["auxiliaries"].items():
            own = ("--public", bench.below(auxiliary), "--draws", settings["draws"])
            bench.run(job, "query", "--service", address, *own, "--out", partial / f"pairs-{kind}.npz")
        noise, device = derive_seed(job.seed, "policy"), resolve_device(bench.device)
        quality = measure_service(artifact, policy, images / "test.npz", device, seed=noise)
        write_json(partial / "service.json", {**quality, "policy": settings["policy"]})
    return {"accuracy %": f"{100 * quality['accuracy']:.1f}"}


@contextmanager
def _service(bench: Bench, job: Job, artifact: Path, policy: Mapping[str, Any]) -> Iterator[str]:
    """The address of a prediction service that lets out what ``policy`` says."""
    document = bench.written(bench.store.path(job), policy, "policy")
    noise = derive_seed(job.seed, "policy")
    given = ("--policy", document, "--noise-seed", noise, "--engine", "torch", *bench.computing())
    with bench.serving(job, "cloud", artifact, "--whole", *given) as address:
        yield address


def do_prediction_cell(bench: Bench, job: Job, settings: Mapping[str, Any]) -> Figures:
    """An attack on shared predictions, or on what a model remembers of its classes; then the judge."""
    out, images = bench.store.path(job), bench.below(settings["images"])
    artifact, evaluator = bench.below(settings["artifact"]), bench.below(settings["evaluator"])
    predictions = None if settings["predictions"] is None else bench.below(settings["predictions"])
    auxiliary, attacked = bench.below(settings["auxiliary_images"]), out.with_name("attack")
    of_classes = settings["cell"]["kind"] == "classes"
    share = settings["share"] or "all"
    if not attacked.exists():
        config = bench.written(out, settings["settings"])
        given: list[object] = ["--public", auxiliary] if "public" in settings["needs"] else []
        if predictions is not None:
            given += ["--pairs", predictions / f"pairs-{settings['auxiliary']}.npz"]
        if not of_classes:
            assert predictions is not None
            given += ["--shared", predictions / f"shared-{share}.npz"]
        if "model" in settings["needs"]:
            given += ["--artifact", artifact]
        if "prior" in settings:
            given += ["--prior", bench.below(settings["prior"])]
        if "adaptive" in settings:
            given += ["--adaptive"]
        command = (job, "invert" if of_classes else "attack", "--attack", settings["attack"], "--config", config)
        common = ("--preset", settings["preset"], "--out", attacked, "--seed", job.seed, *bench.computing())
        if predictions is None and "query" in settings["needs"]:
            with _service(bench, job, artifact, settings["policy"]) as address:
                bench.run(*command, *common, *given, "--service", address)
        else:
            bench.run(*command, *common, *given)
    cell = FigurePlace.parse({**settings["cell"], "id": job.key}, source=job.id)
    if of_classes:
        others = images / "generic.npz"
        distractors = others if others.is_file() else None
        prior = bench.below(settings["prior"]) if "prior" in settings else None
        inputs = (artifact, attacked, images / "train.npz", evaluator)
        pictured = make_class_record(*inputs, out, cell=cell, others=distractors, prior=prior, known=bench.known)
        return shown_figures(pictured)
    assert predictions is not None
    record = make_record(
        artifact,
        attacked,
        images / "victims.npz",
        predictions / "ledger.json",
        out,
        cell=cell,
        evaluator=evaluator,
        auxiliary=settings["auxiliary"],
        auxiliary_images=auxiliary,
        service=Service.read(predictions / "service.json"),
    )
    return shown_figures(record)

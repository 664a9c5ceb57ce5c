"""The judge of model inversion: whether pictures of a class are recognised, by an evaluator and by their pixels."""

from collections.abc import MutableMapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from splitleak.artifacts import provenance
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.prior import Prior
from splitleak.config import digest
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_whole
from splitleak.eval.record.class_figures import class_figures, prior_figures
from splitleak.eval.record.embedder import embedded, load_embedder
from splitleak.eval.record.evaluator import Evaluator
from splitleak.eval.record.inputs import Attacked, target_of
from splitleak.eval.record.metrics import JudgedClasses, measure_plugins, measured_classes
from splitleak.eval.record.open_set import open_set
from splitleak.eval.record.schema import ClassesRecord, Place, PriorFigures, Provenance
from splitleak.eval.record.scoring import check_disjoint, check_target, constant_mse, pixels, write_judged
from splitleak.eval.record.trained_on import trained_images
from splitleak.graphs.importing import NetworkConfig
from splitleak.seeding import generator

_IDENTIFYING = ("attack", "config", "seed", "queries", "draws", "knowledge", "prior", "adaptive")
_SAMPLES = 500


def make_class_record(
    artifact: Path,
    attack: Path,
    train_images: Path,
    evaluator: Path,
    out: Path,
    cell: Place | None = None,
    others: Path | None = None,
    prior: Path | None = None,
    open_judge: tuple[Path, Path] | None = None,
    embedder: tuple[Path, NetworkConfig] | None = None,
    cache: MutableMapping[str, tuple[Tensor, Tensor]] | None = None,
    *,
    force: bool = False,
) -> ClassesRecord:
    """Scores the pictures of each class and writes ``record.json`` and ``pictures.npz``; returns the record.

    Each metric has mean and standard deviation over classes, and the value of every class in order. With several
    pictures of a class, its value is their mean, and ``images`` has the value of every picture ``[class][picture]``,
    so that any published "±" can be computed; ``n`` is the number of pictures.

    - ``recognised``: 1 if the evaluator's top-1 class is the attacked one (attack accuracy); the chance level is
      ``chance``, one over the classes. A convolutional evaluator is at chance on images whose pixel statistics differ
      from its training images, however well a person recognises them: hence the next.
    - ``nearest_mean``: 1 if, of the mean training images of all classes, that of the class is nearest, after
      standardising every image to mean 0 and deviation 1. A picture of one colour is nearest to none.
    - ``mse`` to the mean training image of the class, in [0, 1].
    - ``target_confidence``: the target's probability of the class, without an output policy.

    ``figures`` are the metrics of the literature, see `class_figures`, and with a ``prior`` the evaluator's answers on
    500 of its samples, see `prior_figures`. With an ``open_judge`` they have its answers too, see `open_set`, and with
    an ``embedder`` what that takes to be of one class, see `embedded`.

    Args:
        artifact: The attacked target, with both halves.
        attack: The folder that ``splitleak invert`` wrote.
        train_images: The training images of ``artifact``.
        evaluator: Another artifact for the same classes.
        out: Folder to write.
        cell: Place of the record in a campaign.
        others: Images of other classes, distractors for re-identification.
        prior: The generator that was searched.
        open_judge: The artifact of an evaluator that knows the prior's classes as well, and its splits.
        embedder: An ONNX network from pictures to vectors, and what its file does not tell.
        cache: Cache of the evaluator's features of private images, see `class_figures`, and the embedder's vectors.
        force: Replace a record of another attack or target.

    Raises:
        FileNotFoundError: One of the inputs is missing.
        ValueError: The inputs do not match: other training images than the artifact's, an attacker who owned one of
            them, different numbers of pictures by class, an evaluator that is the target, or a prior of other images.
    """
    private = trained_images(artifact, train_images)[1]
    judge, model = Evaluator.load(evaluator, artifact), load_whole(artifact, torch.device("cpu"), seed=0)
    (target, document), attacked = target_of(artifact), Attacked.read(attack)
    check_disjoint(attacked.public, private)
    check_target(artifact, attacked)
    distractors = None if others is None else load_file(others).train
    made = Reconstructions.load(attack / "reconstructions.npz")
    attacked.check_public(made)
    by_class = made.by_class(model.classes)
    per_class, rebuilt = by_class.shape[1], by_class.flatten(0, 1)
    means, classes = class_means(private, model.classes), torch.arange(model.classes)
    judged = JudgedClasses(rebuilt, classes.repeat_interleave(per_class), means, model, judge)
    given = attacked.identity(*_IDENTIFYING)
    figures = class_figures(model, judge, by_class, private, others=distractors, cache=cache)
    if prior is not None:
        figures = figures.model_copy(update={"prior": _of_prior(judge, prior, attacked.public)})
    if open_judge is not None:
        figures = figures.model_copy(update={"open_set": open_set(*open_judge, by_class)})
    if embedder is not None:
        network = load_embedder(*embedder, private.shape)
        told = embedded(network, by_class, private, distractors, cache)
        figures = figures.model_copy(update={"embedded": told})
    record = ClassesRecord(
        id=digest([document["target"], document["dataset"], list(attacked.public), *given, judge.identity]),
        cell=cell,
        target=target,
        attack=attacked.run,
        threat_model=attacked.threat_model(sees="nothing"),
        n=len(rebuilt),
        chance=1 / model.classes,
        scores=measured_classes(judged, per_class),
        constant_mse=constant_mse(pixels(means)),
        images={"scored": digest(sorted(private.hashes())), "public": digest(sorted(attacked.public))},
        figures=figures,
        evaluator=judge.judge(means, classes),
        provenance=Provenance(**provenance()),
        plugins=attacked.plugins(document.get("plugins", ()), measure_plugins("classes")),
    )
    pictures = {"classes": classes.numpy(), "truth": pixels(means), "rebuilt": pixels(by_class[:, 0])}
    write_judged(out, record, pictures | ({"all": pixels(by_class)} if per_class > 1 else {}), force=force)
    return record


@torch.no_grad()
def _of_prior(judge: Evaluator, folder: Path, public: Sequence[str]) -> PriorFigures:
    prior = Prior.load(folder, torch.device("cpu"))
    if others := set(prior.document.public_hashes) - set(public):
        raise ValueError(f"{folder}: expected the prior that was searched, got one of {len(others)} other images")
    shape, classes = prior.document.generator, prior.document.generator.classes
    latents = torch.randn(_SAMPLES, shape.latent, generator=generator(0, "score", "prior"))
    labels = None if classes is None else torch.arange(_SAMPLES) % classes
    return prior_figures(judge, prior.generator(latents, labels))


def class_means(images: Images, classes: int) -> Tensor:
    """The mean image of each class ``(K, C, H, W)``.

    Raises:
        ValueError: A class has no image.
    """
    counts = torch.bincount(images.labels, minlength=classes)
    if len(counts) != classes or not bool(counts.all()):
        raise ValueError(f"expected images of each of {classes} classes, got {counts.tolist()}")
    floats = images.floats()
    return torch.stack([floats[images.labels == label].mean(0) for label in range(classes)])

"""The commands that judge reconstructions, by metrics and by people."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitleak.cli.choices import choice
from splitleak.cli.documents import read_config
from splitleak.cli.options import (
    ConfigFile,
    Device,
    EmbedderConfig,
    Json,
    Measures,
    Replace,
    ReplaceResult,
    ResultFile,
    Seed,
    Settings,
    Threads,
    check_beside,
    compute_on,
    use_threads,
)
from splitleak.cli.output import result

if TYPE_CHECKING:
    from splitleak.eval.record.schema import Place

Attacked = Annotated[Path, typer.Option(help="Artifact that was attacked.")]
Cell = Annotated[Path | None, typer.Option(help="TOML or JSON to keep in the record, as its place in a grid.")]


def score(
    truth: Annotated[Path, typer.Option(help="The victims' images.")],
    artifact: Annotated[Path | None, typer.Option(help="Artifact that was attacked.")] = None,
    attack: Annotated[Path | None, typer.Option(help="Folder that `splitleak attack` wrote.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="The edge's record of the stream.")] = None,
    reconstructions: Annotated[
        Path | None,
        typer.Option(
            help="Instead of these three: folder of an attack on --features, .npy or .npz, in the order of --truth. "
            "What is written is no record, for nobody vouches for target and stream."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the record.")] = Path("runs/cell"),
    order: Annotated[int, typer.Option(help="Position of this record in a report.")] = 0,
    cell: Cell = None,
    evaluator: Annotated[
        Path | None,
        typer.Option(
            help="Independent classifier (another artifact for the same classes) that judges each image's class."
        ),
    ] = None,
    auxiliary: Annotated[
        str | None, choice("auxiliary", "What the attacker's images are; checked, and kept in the record. One of")
    ] = None,
    auxiliary_images: Annotated[Path | None, typer.Option(help="The attacker's images, for --auxiliary.")] = None,
    auxiliary_data: Annotated[
        str | None, typer.Option(help="Name of their data set, where no splits.json beside them says it.")
    ] = None,
    measure: Measures = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Judge what an attack rebuilt: MSE, SSIM and PSNR of every victim, with their spread.

    --auxiliary is held against the attacker's images and the target's training images (train.npz beside --truth).
    """
    from splitleak.eval.record.schema import CELL
    from splitleak.eval.record.victims import make_record

    if reconstructions is not None:
        told = (artifact, attack, ledger, cell, evaluator, auxiliary, auxiliary_images, auxiliary_data)
        if any(given is not None for given in told) or order:
            raise typer.BadParameter("expected --reconstructions with --truth alone, got options of a record too")
        _score_unproven(reconstructions, truth, out, as_json, force=force)
        return
    if artifact is None or attack is None or ledger is None:
        raise typer.BadParameter("expected --artifact, --attack and --ledger, or --reconstructions")
    check_beside("--auxiliary", auxiliary, {"--auxiliary-data": auxiliary_data})
    CELL.check(out)
    record = make_record(
        *(artifact, attack, truth, ledger, out, order, _place(cell)),
        evaluator=evaluator,
        auxiliary=auxiliary,
        auxiliary_images=auxiliary_images,
        auxiliary_dataset=auxiliary_data,
        force=force,
    )
    shown = ("mse", "ssim", "psnr", *("reclassified",) * (evaluator is not None))
    text = ", ".join(f"{name} {record.scores[name].text(4)}" for name in shown if name in record.scores)
    means = {"n": record.n, **{name: score.mean for name, score in record.scores.items()}}
    result(as_json, {"record": str(out / "record.json"), **means}, f"{out}: {text} over {record.n} images")


def _score_unproven(reconstructions: Path, truth: Path, out: Path, as_json: bool, *, force: bool) -> None:
    from splitleak.eval.record.unproven import UNPROVEN, score_unproven

    scored = score_unproven(reconstructions, truth, out, force=force)
    means = {name: scored["scores"][name]["mean"] for name in ("mse", "ssim", "psnr") if name in scored["scores"]}
    document = {"scores": str(out / UNPROVEN.mark), "n": scored["n"], **means, "caveat": scored["caveat"]}
    text = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    result(as_json, document, f"{out}: {text} over {scored['n']} images, {scored['caveat']}")


def _place(cell: Path | None) -> "Place | None":
    """The place in a grid that a file names."""
    from splitleak.config import read_document
    from splitleak.eval.record.schema import parse_place

    return None if cell is None else parse_place(read_document(cell), source=str(cell))


def score_classes(
    artifact: Attacked,
    attack: Annotated[Path, typer.Option(help="Folder that `splitleak invert` wrote.")],
    train_images: Annotated[Path, typer.Option(help="The images that the artifact was trained on.")],
    evaluator: Annotated[Path, typer.Option(help="Independent classifier: another artifact for the same classes.")],
    others: Annotated[
        Path | None,
        typer.Option(help="Images of other classes, as distractors when a reconstruction's own class is looked for."),
    ] = None,
    prior: Annotated[
        Path | None, typer.Option(help="The generator that was searched; the evaluator judges its images too.")
    ] = None,
    embedder: Annotated[
        Path | None,
        typer.Option(help="ONNX network from pictures to vectors: are rebuilt and true pictures verified as the same?"),
    ] = None,
    embedder_config: EmbedderConfig = None,
    out: Annotated[Path, typer.Option(help="Folder for the record.")] = Path("runs/cell"),
    cell: Cell = None,
    measure: Measures = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Judge one picture a class: is it taken for the class by an independent classifier, and by its pixels."""
    from splitleak.eval.record.classes import make_class_record
    from splitleak.eval.record.schema import CELL
    from splitleak.graphs.importing import NetworkConfig

    check_beside("--embedder", embedder, {"--embedder-config": embedder_config})
    CELL.check(out)
    inputs = (artifact, attack, train_images, evaluator, out, _place(cell), others, prior)
    told = None if embedder is None else (embedder, read_config(NetworkConfig, embedder_config, None, "embedder"))
    record = make_class_record(*inputs, embedder=told, force=force)
    assert record.evaluator is not None
    judge = {"evaluator_accuracy": record.evaluator.accuracy, "evaluator_on_truth": record.evaluator.on_truth}
    means = {"n": record.n, "chance": record.chance, **{name: score.mean for name, score in record.scores.items()}}
    text = (
        f"{out}: of {means['n']} pictures {means['recognised']:.1%} recognised by an evaluator that is right in "
        f"{judge['evaluator_accuracy']:.1%}, {means['nearest_mean']:.1%} nearest to their own mean image (chance "
        f"{means['chance']:.1%}); MSE to that {means['mse']:.4f}, confidence of the target "
        f"{means['target_confidence']:.3f}"
    )
    if record.figures is not None and record.figures.embedded is not None:
        for rate, at in record.figures.embedded.at.items():
            means[f"embedded_{rate}"] = at.rebuilt.rate
            true = "" if at.true is None else f", of true photographs {at.true.rate:.1%}"
            text += f"; {at.rebuilt.rate:.1%} verified at {float(rate):.1%} false matches{true}"
    result(as_json, {"record": str(out / "record.json"), **means, **judge}, text)


def extraction(
    attack: Annotated[Path, typer.Argument(help="Folder that `splitleak invert` wrote.")],
    artifact: Attacked,
    train_images: Annotated[Path, typer.Option(help="The images that the artifact was trained on.")],
    out: ResultFile = None,
    force: ReplaceResult = False,
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a student on the rebuilt pictures: how much of the target's training images does it know (KES)?"""
    from splitleak.eval.targets.knowledge_extraction import ExtractionConfig, measure_extraction
    from splitleak.logs import progress

    given = read_config(ExtractionConfig, config, settings, "extraction", seed=seed)
    chosen = compute_on(device, threads)
    with progress("extraction") as report:
        measured = measure_extraction(artifact, attack, train_images, given, chosen, report)
    text = (
        f"{attack}: a student of {measured['images_per_class']} pictures a class knows {measured['share']:.1%} of the "
        f"private images ({measured['low']:.1%} to {measured['high']:.1%}; chance {measured['chance']:.1%})"
    )
    result(as_json, measured, text, out=out)


def layers(
    attack: Annotated[Path, typer.Argument(help="Folder that `splitleak invert` wrote.")],
    artifact: Attacked,
    images: Annotated[Path, typer.Option(help="Folder that `splitleak split` wrote, which it was trained on.")],
    out: ResultFile = None,
    force: ReplaceResult = False,
    count: Annotated[int, typer.Option(min=1, help="Images of either kind, at most.")] = 200,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure which layers hold the information for classification and for inversion, by Fisher information."""
    from splitleak.eval.targets.layer_information import measure_layers

    use_threads(threads)
    measured = measure_layers(artifact, attack, images, count=count)
    share = measured["share"]
    lines = [
        f"{name}: classification {share['classification'][name]:.1%}, inversion {share['inversion'][name]:.1%}"
        for name in share["classification"]
    ]
    result(as_json, measured, "\n".join([f"{artifact}: shares of the information by layer", *lines]), out=out)


def study(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder that `splitleak invert` wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same classes.")],
    train_images: Annotated[Path, typer.Option(help="The images that the target was trained on.")],
    out: Annotated[Path, typer.Option(help="The page, an HTML file that needs no other.")] = Path("runs/study.html"),
    key: Annotated[Path | None, typer.Option(help="File for which side is whose; default: beside --out.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Pairs of each class, at most.")] = 1,
    seconds: Annotated[int, typer.Option(min=0, help="To answer a pair; 0: no limit.")] = 60,
    chooser: Annotated[
        Path | None, typer.Option(help="An artifact that answers in a person's place; not the judge of other figures.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make the page of a blind study: a real image of a class, two reconstructions. Which comes closer?

    Who looks at it saves a file of votes for `splitleak study-score`. The page does not tell which side is whose.
    """
    from splitleak.artifacts import write_json
    from splitleak.eval.study.study import StudyConfig, choose, make_study, write_study
    from splitleak.eval.study.votes import Votes
    from splitleak.outputs import check_file

    config = StudyConfig(each=each, seconds=seconds, seed=seed)
    pairs = make_study(first, second, train_images, config)
    secret = key or out.with_suffix(".key.json")
    write_study(pairs, out, secret, config)
    document: dict[str, Any] = {"page": str(out), "key": str(secret), "pairs": len(pairs.key.pairs)}
    if chooser is not None:
        votes = out.with_suffix(".votes.json")
        check_file(votes, "votes of this study", lambda path: Votes.read(path).study == pairs.key.study)
        write_json(votes, choose(pairs, chooser).document())
        document["votes"] = str(votes)
    result(as_json, document, f"{out}: {document['pairs']} pairs; which side is whose is in {secret}")


def study_score(
    votes: Annotated[list[Path], typer.Argument(help="Files that a study's page saved, or its --chooser.")],
    key: Annotated[Path, typer.Option(help="The key that `splitleak study` wrote.")],
    as_json: Json = False,
) -> None:
    """Count the votes of a blind study: how often A and B were chosen, with Wilson's 95 % interval."""
    from splitleak.eval.study.votes import score_votes

    counts = score_votes(votes, key)
    shown = "; ".join(
        f"{side.upper()} ({counts[side].get('attack', '?')}) {counts[side]['share']:.1%}, "
        f"{counts[side]['low']:.1%} to {counts[side]['high']:.1%}"
        for side in ("a", "b")
    )
    text = f"{shown}; {counts['answers']} answers of {len(counts['voters'])}, {counts['unanswered']} unanswered"
    result(as_json, counts, text)

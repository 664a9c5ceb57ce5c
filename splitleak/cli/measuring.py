"""The commands that measure a target itself: estimates without an attack, robustness and cost."""

from pathlib import Path
from typing import Annotated, Any

import typer

from splitleak.cli.documents import designed, read_config
from splitleak.cli.options import (
    Artifact,
    ConfigFile,
    Defenses,
    Device,
    EmbedderConfig,
    Json,
    ReplaceResult,
    ResultFile,
    Seed,
    Settings,
    Threads,
    TrainedOn,
    check_beside,
    compute_on,
    use_threads,
)
from splitleak.cli.output import console, keep, print_json, result, table


def leakage(
    artifact: Artifact,
    images: TrainedOn,
    out: ResultFile = None,
    force: ReplaceResult = False,
    samples: Annotated[int, typer.Option(min=2, help="Training images that densities are fitted to, at most.")] = 2000,
    n_images: Annotated[int, typer.Option(min=1, help="Training images at which the Jacobian is taken.")] = 12,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Estimate the least MSE under a Gaussian model, and the Fisher information of what is sent, without an attack."""
    from splitleak.eval.targets.leakage import LeakageConfig, measure
    from splitleak.logs import progress

    config = LeakageConfig(samples=samples, n_images=n_images, seed=seed)
    with progress("leakage") as report:
        measured = measure(artifact, images, config, compute_on(device, threads), report)
    fisher = measured["fsinfo_nats_per_pixel"]
    estimate = f"{measured['mse_gaussian_estimate']:.3g} under a Gaussian model of {measured['samples']:,} images"
    text = f"{artifact}: MSE at least {estimate}, an estimate that attacks may fall below; FSInfo "
    if left_out := measured.get("not_measured"):
        text += f"and effective dimensions not measured: {left_out['effective_dimensions']}"
    else:
        text += "infinite, no noise is sent" if fisher is None else f"{fisher:.4f} nats a pixel"
        text += f"; {measured['effective_dimensions']:.1f} effective dimensions of {measured['image_dimensions']}"
    result(as_json, measured, text, out=out)


def linkage(
    artifact: Artifact,
    images: TrainedOn,
    out: ResultFile = None,
    force: ReplaceResult = False,
    attributes: Annotated[
        Path | None, typer.Option(help="CSV of attributes: file, or set and index, and a column of each.")
    ] = None,
    embedder: Annotated[
        Path | None, typer.Option(help="ONNX network from pictures to vectors, for what was rebuilt (--score).")
    ] = None,
    embedder_config: EmbedderConfig = None,
    score: Annotated[Path | None, typer.Option(help="Folder from `splitleak score`, of an attack on --images.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure what features tell without a picture: whether a victim's is found again, of whom it is, what it shows.

    Features are as they cross the wire, defenses and codec (--set codec=uint8) included.
    """
    from splitleak.eval.targets.linkage import COLUMNS, LinkageConfig, measure, rows
    from splitleak.logs import progress

    if (embedder is None) != (score is None):
        raise typer.BadParameter("expected --embedder and --score together, as the one looks at what the other holds")
    check_beside("--embedder", embedder, {"--embedder-config": embedder_config})
    given = read_config(LinkageConfig, config, settings, "linkage", seed=seed)
    with progress("linkage") as report:
        measured = measure(artifact, images, given, compute_on(device, threads), attributes, report)
    if embedder is not None and score is not None:
        measured["rebuilt"] = _embedded(embedder, embedder_config, score, images)
    keep(out, measured)
    if as_json:
        print_json(measured)
        return
    title = f"{measured['target']}: {measured['victims']} victims, {measured['queries']:,} queries; percent"
    console().print(table(COLUMNS, rows(measured), title=title, left=(COLUMNS[0], COLUMNS[-1])))


def _embedded(embedder: Path, config: Path | None, score: Path, images: Path) -> dict[str, Any]:
    from splitleak.datasets.splits import Splits
    from splitleak.eval.record.embedder import load_embedder
    from splitleak.eval.targets.embedder import rebuilt_verified
    from splitleak.graphs.importing import NetworkConfig

    victims = Splits.load(images).victims
    network = load_embedder(embedder, read_config(NetworkConfig, config, None, "embedder"), victims.shape)
    return rebuilt_verified(network, score, victims)


def robustness(
    artifact: Artifact,
    images: Annotated[Path, typer.Option(help="Folder from `splitleak split` (or `poison`) that it was trained on.")],
    out: ResultFile = None,
    force: ReplaceResult = False,
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Attack a target with FGSM, BIM, PGD and one pixel, untargeted and targeted, and open its backdoor if it has one.

    What is shown are shares of test images on which an attack succeeds, with their 95 % intervals.
    """
    from splitleak.eval.targets.robustness import COLUMNS, RobustnessConfig, backdoor_line, measure_robustness, rows
    from splitleak.logs import progress

    given = read_config(RobustnessConfig, config, settings, "robustness", seed=seed)
    with progress("robustness") as report:
        measured = measure_robustness(artifact, images, given, compute_on(device, threads), report)
    keep(out, measured)
    if as_json:
        print_json(measured)
        return
    shown = console()
    title = f"{measured['name']}: {measured['images']} test images, success rates"
    shown.print(table(COLUMNS, rows(measured), title=title, left=COLUMNS[:1]))
    if line := backdoor_line(measured):
        shown.print(line, highlight=False)


def training_time(
    designs: Annotated[Path, typer.Argument(help="TOML or JSON: by name targets, each as for train --config.")],
    images: Annotated[Path, typer.Option(help="Folder from `splitleak split`.")],
    baseline: Annotated[str, typer.Option(help="The target that the others are measured by.")] = "none",
    out: ResultFile = None,
    force: ReplaceResult = False,
    config: ConfigFile = None,
    settings: Settings = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Time short trainings of several targets in turn, in seconds of the processor, as ratios to one of them."""
    from splitleak.config import merged, read_document
    from splitleak.datasets.splits import Splits
    from splitleak.defenses.training import TargetConfig
    from splitleak.eval.targets.training_time import TimeConfig, training_times
    from splitleak.logs import progress

    use_threads(threads)
    splits = Splits.load(images)
    channels, size, _ = splits.train.shape
    shape = {"model": {"channels": channels, "size": size, "classes": len(splits.train.classes)}}
    targets = {
        name: TargetConfig.parse(merged(shape, document), source=f"{designs}: {name}")
        for name, document in read_document(designs).items()
    }
    given = read_config(TimeConfig, config, settings, "training-time")
    with progress("training time") as report:
        measured = training_times(targets, baseline, splits, given, report)
    ratios = ", ".join(f"{name} {target['ratio']:.2f}" for name, target in measured["targets"].items())
    result(as_json, measured, f"times the training of {baseline!r}: {ratios}", out=out)


def cost(
    artifact: Annotated[
        Path | None, typer.Argument(help="Artifact folder; without one, an untrained design is measured.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The design: TOML or JSON as for train; CIFAR-10's shapes by default.")
    ] = None,
    defense: Defenses = None,
    settings: Settings = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds over torch and ONNX Runtime, in turn.")] = 20,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Count both halves and the decoder that attacks them, and time the halves in torch and ONNX Runtime, on the CPU.

    Shows table S6 of the CEM paper beside it, whose network is `splitleak cost --defense bottleneck`.
    """
    from splitleak.eval.targets.cost import from_artifact, from_config, measure
    from splitleak.logs import progress

    if artifact is not None and (config or defense or settings):
        raise typer.BadParameter("expected an artifact, or a design by --config, --defense and --set, got both")
    if artifact is not None:
        design = from_artifact(artifact)
    else:
        from splitleak.defenses.training import TargetConfig

        document = {"model": {"channels": 3, "size": 32, "classes": 10}}
        target = TargetConfig.parse(designed(document, config, defense, settings), source=str(config or "cost"))
        design = from_config(target, config.stem if config else "untrained")
    use_threads(threads)
    with progress("cost") as report:
        measured = measure(design, batch=batch, repeats=repeats, report=report)
    if as_json:
        print_json(measured)
    else:
        _print_cost(measured)


def _print_cost(measured: dict[str, Any]) -> None:
    from splitleak.eval.targets.cost import COLUMNS, PUBLISHED_COLUMNS, published, rows

    shown = console(width=120)
    printed, notes = published()
    timed = f"ms a batch of {measured['batch']}, median of {measured['repeats']}, {measured['provenance']['hardware']}"
    for title, columns, lines, below in (
        (f"{measured['name']}; {timed}", COLUMNS, rows(measured), measured["rules"].values()),
        ("Published, table S6: vgg11, cut 4, bottleneck C8S1", PUBLISHED_COLUMNS, printed, notes),
    ):
        shown.print(table(columns, lines, title=title, left=columns[:1], wrap=False, framed=False))
        for note in below:
            shown.print(note, highlight=False)
        shown.print()

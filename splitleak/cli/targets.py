"""The commands that make a target: its images, its training, what its halves look like and where they go."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitleak.cli.choices import choice
from splitleak.cli.documents import designed, half_of, read_config
from splitleak.cli.options import (
    Again,
    Artifact,
    CloudHalf,
    ConfigFile,
    DataRoot,
    Defenses,
    Device,
    Json,
    Preset,
    Replace,
    Seed,
    Settings,
    Sides,
    Size,
    Threads,
    TrainedOn,
    compute_on,
)
from splitleak.cli.output import console, print_json, result, table

if TYPE_CHECKING:
    from splitleak.datasets.splits import Splits
    from splitleak.models.counting import ModuleCount
    from splitleak.models.imported_half import ImportedModel

MILLION = 1e6
_SIZE = Sides(32, 32)
_SHOWN_CLASSES = 20
_USES = {"train": "the training pool", "test": "the test pool", "nothing": "not used"}


def split(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/images"),
    data: Annotated[
        str,
        typer.Option(
            help="builtin, photographs, a plug-in's set or a torchvision set by name, module:callable, an .npz file, "
            "or a folder or zip of images."
        ),
    ] = "builtin",
    data_root: DataRoot = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a set it lacks.")] = False,
    size: Size = _SIZE,
    channels: Annotated[int | None, typer.Option(min=1, help="1 or 3; default: as they are.")] = None,
    public: Annotated[int, typer.Option(min=1, help="Images the attacker owns.")] = 2000,
    victims: Annotated[int, typer.Option(min=1, help="Images that cross the wire and are attacked.")] = 200,
    train_: Annotated[int | None, typer.Option("--train", min=1, help="Training images; default: the rest.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Test images; default: all.")] = None,
    from_: Annotated[str, choice("pools", "Where public and victims' images come from. One of", "--from")] = "train",
    classes: Annotated[
        int | None, typer.Option(min=2, help="Classes the target knows, drawn by seed; default: all.")
    ] = None,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="Draw each set class by class, so that none lacks one.")
    ] = False,
    generic: Annotated[
        int | None, typer.Option(min=1, help="Images of the other classes; default: as many as public.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and list them.")
    ] = False,
    seed: Seed = 0,
    config: Annotated[
        Path | None, typer.Option(help="TOML or JSON with counts, classes and seed, in place of their options.")
    ] = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Split a data set into the four sets that share no image, one file each.

    With --classes they hold those alone, and generic.npz holds images of the others. The attacker is given public.npz
    (or generic.npz), the edge victims.npz, and neither of them anything else.

    A folder or zip holds CLASS/IMAGE, or train/CLASS/IMAGE beside test/ and val/; val/ is the test set where there is
    none, and else unused. One folder around everything, and CLASS/images/IMAGE, are understood; hidden and system files
    are ignored. Images (PNG, JPEG, GIF, TIFF, BMP, WebP, PNM) are turned upright, composed on white, and 16 bits scaled
    to 8. They are in colour where any one is. An .npz holds uint8 images (N, H, W[, C]) and labels, or x_train,
    y_train, x_test and y_test; classes (names) is optional.
    """
    from splitleak.datasets import DATASETS, load
    from splitleak.datasets.splits import SPLITS, SplitConfig
    from splitleak.datasets.splits import split as split_images
    from splitleak.logs import progress, silent

    SPLITS.check(out)
    DATASETS.permit(data)

    with progress("split") if Path(data).exists() else nullcontext(silent) as report:
        loaded = load(
            data,
            data_root=data_root,
            download=download,
            size=size,
            channels=channels,
            skip_bad=skip_bad,
            report=report,
        )
    counts = {"public": public, "victims": victims, "train": train_, "test": test, "generic": generic}
    asked = {"seed": seed, "classes": classes, "stratified": stratified, "from": from_, **counts}
    splits = split_images(loaded, read_config(SplitConfig, config, None, "split", **asked))
    splits.save(out, force=force)
    sizes = {part: part_record["count"] for part, part_record in splits.record["images"].items()}
    text = ", ".join(f"{part} {count}" for part, count in sizes.items())
    summary = splits.summary or {}
    lines = (f"{out}: {text}", *_summary_lines(summary))
    result(as_json, {"folder": str(out), "images": sizes, **summary}, "\n".join(lines))


def _summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The summary of a split as text: classes, pools, what was ignored or skipped, notes and flags."""
    classes = summary["classes"]
    shown = list(classes.items())[:_SHOWN_CLASSES]
    more = f" and {len(classes) - len(shown)} more, in splits.json" if len(classes) > len(shown) else ""
    yield f"classes ({len(classes)}): {', '.join(f'{name} {count}' for name, count in shown)}{more}"
    if len(summary["pools"]) > 1 or any(pool != use for pool, use in summary["pools"].items()):
        uses = (f"{pool}/ is {_USES.get(use, use)}" for pool, use in summary["pools"].items())
        yield f"pools: {', '.join(uses)}"
    if summary["duplicates"]:
        yield f"duplicates dropped: {summary['duplicates']}"
    for kind, files in summary["ignored"].items():
        yield f"ignored: {files['count']} {kind}, the first {files['first']}"
    for skipped in summary["skipped"]:
        yield f"skipped: {skipped['file']}: {skipped['reason']}"
    yield from (f"note: {note}" for note in summary["notes"])
    yield from (f"flag: {flag}" for flag in summary["flags"])


def train(
    out: Annotated[Path, typer.Option(help="Artifact folder to write.")] = Path("runs/target"),
    name: Annotated[str | None, typer.Option(help="Name the services give the model; default: the folder's.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder from `splitleak split`; default: the built-in images, split by seed 0.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Fine-tune what `splitleak import` wrote to this folder; default: a new network."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML or JSON with tables model, defenses, training.")] = None,
    defense: Defenses = None,
    settings: Settings = None,
    preset: Preset = "cpu",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Again = False,
    as_json: Json = False,
) -> None:
    """Train a split model under a stack of defenses, and write it as an artifact with an edge and a cloud half.

    With --model it is your own network under these defenses: where its outputs are not the classes of --images, it is
    trained to give the answers that it gave before.

    An interrupted training goes on where it was; one that is done, with the same settings and images, is reused.
    `--set gaussian-noise.sigma=0.1` sets a defense's own setting.
    """
    from dataclasses import replace

    from splitleak.defenses.artifact import ARTIFACT, load_whole, read_record, save
    from splitleak.defenses.importing import read_networks, taught
    from splitleak.defenses.training import TargetConfig, TrainingConfig
    from splitleak.defenses.training import train as train_target
    from splitleak.logs import progress
    from splitleak.outputs import claimed

    if model is not None and preset != "cpu":
        own = "fine-tuning has settings of its own (--set training.KEY=VALUE changes them)"
        raise ValueError(f"expected --preset with a new network alone, got {preset} with --model: {own}")
    splits = _splits(images)
    training = TrainingConfig.of_preset(preset)
    networks: dict[str, bytes] = {}
    about: dict[str, Any] = {}
    if model is not None:
        imported, networks = read_networks(model)
        splits, about["right_answer"] = taught(model, splits)
        network = imported.document()
        training = TrainingConfig.fine_tuning()
    else:
        network = {
            "width": 1.0 if preset == "paper" else 0.25,
            "channels": splits.train.pixels.shape[1],
            "size": splits.train.pixels.shape[2],
            "classes": len(splits.train.classes),
        }
    document: dict[str, Any] = {"model": network, "training": training.document(), "seed": seed}
    target = TargetConfig.parse(designed(document, config, defense, settings), source=str(config or "train")).pinned()
    if model is not None and target.model != imported:
        raise ValueError(f"expected the network of {model} as it is, got settings of another (model)")
    chosen = compute_on(device, threads)
    described = {"target": target.document(), "dataset": splits.record, **({"name": name} if name else {})}
    with claimed(out, ARTIFACT, described, force=force):
        if not force and (out / ARTIFACT.mark).exists():
            try:
                load_whole(out, chosen)
            except (FileNotFoundError, ValueError) as error:
                typer.echo(f"{out}: a broken artifact is trained again: {error}", err=True)
            else:
                accuracy = read_record(out)["accuracy"]
                shown = f"{out}: accuracy {100 * accuracy:.2f} % (already trained)"
                result(as_json, {"artifact": str(out), "accuracy": accuracy, "reused": True}, shown)
                return
        label = name or out.name
        with progress(label) as report:
            trained = train_target(
                target,
                splits,
                device=chosen,
                checkpoint=out.with_name(f".{out.name}.checkpoint"),
                report=report,
                networks=networks,
            )
        save(out, label, replace(trained, record={**trained.record, **about}))
    accuracy = trained.record["accuracy"]
    shown = f"{out}: accuracy {100 * accuracy:.2f} %"
    result(as_json, {"artifact": str(out), "accuracy": accuracy, "reused": False}, shown)


def inspect(
    artifact: Artifact,
    as_json: Json = False,
) -> None:
    """Show the layers, shapes, parameters and multiply-accumulates of both halves of an artifact.

    Of a network of your own also its cut, preprocessing and labels.
    """
    from splitleak.defenses.artifact import load_cloud, load_edge, read_record
    from splitleak.models.counting import COUNTING_RULE, count_macs
    from splitleak.models.imported_half import ImportedModel, Unreached
    from splitleak.seeding import resolve_device

    cpu = resolve_device("cpu")
    edge_half, cloud_half = load_edge(artifact / "edge", cpu), load_cloud(artifact / "cloud", cpu)
    record, model = read_record(artifact), edge_half.config.target.model
    counted = {}
    for half, module, shape in (
        ("edge", edge_half.encoder, edge_half.input_shape),
        ("cloud", cloud_half.head, cloud_half.feature_shape),
    ):
        counted[half] = _cut_count(record, half) if isinstance(module, Unreached) else count_macs(module, shape)
    own = _own_network(model, record, edge_half.config.classes) if isinstance(model, ImportedModel) else {}
    if as_json:
        halves = {half: count.document() for half, count in counted.items()}
        print_json({"artifact": str(artifact), "rule": COUNTING_RULE, **halves, **({"network": own} if own else {})})
        return
    shown = console()
    for half, count in counted.items():
        shape = edge_half.input_shape if half == "edge" else cloud_half.feature_shape
        heading = f"{half}: {count.parameters:,} parameters, {count.macs / MILLION:.3f} M MACs, from {shape}"
        if not any(row.name for row in count.rows):  # one graph, without layers
            shown.print(heading, highlight=False)
            continue
        columns = ("layer", "kind", "output", "parameters", "MACs")
        rows = [
            (row.name, row.kind, str(row.output_shape), f"{row.parameters:,}", f"{row.macs:,}") for row in count.rows
        ]
        shown.print(table(columns, rows, title=heading, left=("layer", "kind")))
    acting = ", ".join(defense.name for defense in edge_half.stack) or "nothing"
    shown.print(f"On the wire: {cloud_half.feature_shape} after {acting}. {COUNTING_RULE}")
    for name, value in own.items():
        said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        shown.print(f"{name.replace('_', ' ')}: {said}", highlight=False, markup=False, soft_wrap=True)


def _cut_count(record: dict[str, Any], half: str) -> "ModuleCount":
    """The counts of a half that torch does not compute, as its import found them."""
    from splitleak.models.counting import ModuleCount

    side = "device" if half == "edge" else "cloud"
    return ModuleCount((), record["cut"][f"{side}_parameters"], record["cut"][f"{side}_macs"])


def _own_network(model: "ImportedModel", record: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """What there is to say of an imported network, but for the figures of its halves."""
    about: dict[str, Any] = {"source": model.source, "cut": model.cut}
    if after := record.get("cut", {}).get("after"):
        about["after"] = after
    about["crosses"] = [list(shape) for shape in model.parts or (model.features,)]
    about["outputs"] = model.classes
    about["labels"] = list(labels) or "none"
    about["preprocessing"] = record.get("preprocessing", "not recorded")
    about["right_answer"] = record.get("right_answer", "labels")
    about["accuracy"] = record["accuracy"]
    return about | ({"notes": record["notes"]} if record.get("notes") else {})


def export(
    artifact: CloudHalf,
    triton: Annotated[Path, typer.Option(help="Triton's model repository, to be made if need be.")],
    backend: Annotated[
        str,
        choice("backends", "python: for a Triton without the other; its Python needs numpy and onnxruntime. One of"),
    ] = "onnxruntime",
    max_batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Largest batch that Triton forms, in rows; 1 of a network that takes one image at a time."
        ),
    ] = 64,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Write the cloud half as a model for a Triton Inference Server, which our edge can then use unchanged.

    Clients see what they see of `splitleak cloud` without a policy: features in, logits out, under the same names.
    """
    from splitleak.defenses.artifact import imported_graph, load_cloud
    from splitleak.models.imported_half import ImportedModel
    from splitleak.models.triton import write_triton_model
    from splitleak.seeding import resolve_device

    folder = half_of(artifact, "cloud")
    half = load_cloud(folder, resolve_device("cpu"))
    network = half.config.target.model
    written = write_triton_model(
        triton,
        half.name,
        half.head,
        half.feature_shape,
        half.classes,
        graph=imported_graph(folder),
        one_by_one=isinstance(network, ImportedModel) and not network.batched,
        backend=backend,
        max_batch_size=max_batch_size,
        replace=force,
    )
    result(as_json, {"model": half.name, "folder": str(written), "backend": backend}, f"{written}: for Triton")


def purify(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder of the target.")],
    images: TrainedOn,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/purifier"),
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Train a purifier of a target's score vectors, and measure what it costs in accuracy and in confidence.

    `splitleak cloud --set purifier=FOLDER` puts it before the service's answers. It learns from training images, or,
    with `--set reference=test`, from half of the test images, and never from the attacker's or the victims'.
    """
    from splitleak.artifacts import provenance
    from splitleak.datasets.splits import Splits
    from splitleak.defenses.artifact import artifact_digest
    from splitleak.defenses.predictions.purifier import PURIFIER, PurifierConfig, save_purifier
    from splitleak.defenses.predictions.train_purifier import train_target_purifier
    from splitleak.logs import progress
    from splitleak.outputs import claimed

    given, chosen = read_config(PurifierConfig, config, settings, "purify"), compute_on(device, threads)
    splits, checkpoint = Splits.load(images), out.with_name(f".{out.name}.checkpoint")
    described: dict[str, Any] = {"purifier": given.document(), "dataset": splits.record, "seed": seed}
    described["target"] = {"digest": artifact_digest(artifact)}
    with claimed(out, PURIFIER, described, force=force), progress(out.name) as report:
        purifier, record = train_target_purifier(
            artifact, splits, given, seed, device=chosen, report=report, checkpoint=checkpoint
        )
        save_purifier(out, purifier, {**record, "provenance": provenance()})
    cost = record["cost"]
    shown = f"accuracy {cost['accuracy']['before']:.2%} to {cost['accuracy']['after']:.2%}"
    shown = f"{shown}, confidence distortion {cost['confidence_distortion']:.4f}"
    result(as_json, {"purifier": str(out), **cost}, f"{out}: {shown} over {cost['images']} {cost['set']} images")


def poison(
    images: Annotated[Path, typer.Argument(help="Folder from `splitleak split`.")],
    out: Annotated[Path, typer.Option(help="Folder for the same images with a backdoor in the training set.")],
    config: ConfigFile = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="E.g. trigger=blended, fraction=0.05; repeatable."),
    ] = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Put a backdoor's trigger on some training images, and its class; `train` and `robustness` then take --out."""
    from splitleak.datasets.splits import Splits
    from splitleak.eval.targets.backdoor import PoisonConfig
    from splitleak.eval.targets.backdoor import poison as poison_splits

    given = read_config(PoisonConfig, config, settings, "poison")
    before = Splits.load(images)
    poisoned = poison_splits(before, given)
    poisoned.save(out, force=force)
    count = max(1, round(given.fraction * len(before.train)))
    document = {"folder": str(out), "poisoned": count, "poison": given.document()}
    result(as_json, document, f"{out}: {count} of {len(before.train)} training images poisoned by {given.trigger}")


def _splits(folder: Path | None) -> "Splits":
    from splitleak.datasets import load
    from splitleak.datasets.splits import SplitConfig, Splits
    from splitleak.datasets.splits import split as split_images

    return Splits.load(folder) if folder is not None else split_images(load("builtin").fitted(32, 1), SplitConfig())

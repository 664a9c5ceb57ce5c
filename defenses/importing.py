"""Writes a network of a user's own, cut in two, as an artifact, and measures what it gets right."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from splitleak.datasets.images import Images, are_outputs, in_order
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import ARTIFACT, load_whole, save_imported, whole_config
from splitleak.defenses.training import TargetConfig
from splitleak.graphs.arrangement import arrangements
from splitleak.graphs.halves import check_halves, cloud_half, edge_half
from splitleak.graphs.importing import network_digest
from splitleak.graphs.network import Cut, Network
from splitleak.graphs.prepared import OUTPUT, Preprocessing, last_operation
from splitleak.models.imported_half import NETWORK, ImportedModel, unreached
from splitleak.outputs import claimed

LABELS, OWN_ANSWER = "labels", "the whole network's own answer"
"""What a right answer is: the images' labels, or, where these are not the network's outputs, what it gave before.

They are not where there are more or fewer of them, or where the outputs have their names in another order.
"""

_BATCH = 64
NO_IMAGES: Mapping[str, Any] = {"dataset": "unknown"}


def import_network(
    network: Network,
    cut: Cut,
    out: Path,
    *,
    source: str,
    name: str,
    names: tuple[str, ...] | None,
    images: Path | None,
    preprocessing: Preprocessing | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Cuts ``network`` and writes the artifact ``out``, once both halves give what the whole gives.

    Args:
        network: Prepared.
        cut: One of its cuts.
        out: The artifact's folder.
        source: Where the network comes from, in words.
        name: The model's name in the inference protocol.
        names: Of its outputs; None: those of the images' classes, if there are as many, else none.
        images: A split; its test images tell the accuracy. None: nothing is measured.
        preprocessing: What is part of the network already, for the record.
        force: Replace an artifact of another network, cut or name.

    Returns:
        ``accuracy`` in [0, 1], ``right_answer`` (what counts as right), ``difference`` of both halves to the whole,
        ``cut`` and ``notes``.

    Raises:
        FileExistsError: There is something at ``out`` that may not be replaced.
        RuntimeError: Both halves give something else than the whole.
        ValueError: The images do not fit the network.
    """
    model, (edge, cloud) = cut_in_two(network, cut, source=source)
    difference = check_halves(network, edge, cloud)
    splits = None if images is None else Splits.load(images)
    right, accuracy = _accuracy(network, splits, names or ())
    notes = [] if network.outputs > 1 else ["of one output every answer counts as right: no accuracy"]
    last = last_operation(network.graph, OUTPUT)
    if last is not None and last.op_type == "Sigmoid" and network.outputs > 1:
        notes.append(
            "the answer is that of a sigmoid, each output by itself: the largest counts as the answer, and services "
            "give the softmax of all as scores, which a service of yours may not"
        )
    if splits is not None and not in_order(splits.test.classes, names or ()):
        notes.append("the outputs are the images' classes in another order: no accuracy by their labels")
    if names is None:
        names = splits.train.classes if splits is not None and right == LABELS else ()
    notes += network.notes
    for half, graph in (("device", edge), ("cloud", cloud)):
        if missing := unreached(graph):
            what = "white-box attacks and training" if half == "device" else "training"
            notes.append(f"no {what}: on the {half} side torch does not reach {', '.join(missing)}")
    about: dict[str, Any] = {"accuracy": accuracy, "right_answer": right, "difference": difference, "notes": notes}
    about["cut"] = {**vars(cut), "name": cut.name}
    told = {} if preprocessing is None else {"preprocessing": preprocessing.document()}
    record = {"dataset": dict(NO_IMAGES) if splits is None else splits.record, **about, **told}
    config = TargetConfig(model=model, training=None)
    networks = {"edge": edge.SerializeToString(), "cloud": cloud.SerializeToString()}
    with claimed(out, ARTIFACT, {"target": config.document(), "name": name}, force=force):
        save_imported(out, name, config, networks, classes=names, record=record)
    return about


def cut_in_two(network: Network, cut: Cut, *, source: str) -> tuple[ImportedModel, tuple[ModelProto, ModelProto]]:
    """What an artifact says of a network, and its halves: the edge's and the cloud's. See `import_network`."""
    model = ImportedModel(
        source=source,
        network=network_digest(network),
        cut=cut.name,
        image_shape=network.image_shape,
        features=cut.feature_shape,
        parts=cut.shapes if len(cut.shapes) > 1 else (),
        arranged=_arranged(network, cut),
        classes=network.outputs,
        batched=network.batched,
    )
    return model, (edge_half(network, cut), cloud_half(network, cut))


def _arranged(network: Network, cut: Cut) -> tuple[tuple[int, ...], ...]:
    """The maps that flat features were, as far as their values still follow one another; none: these were always flat.

    Whoever reads the wire finds them by trying.
    """
    if len(cut.feature_shape) > 1:
        return ()
    (own, _), *others = arrangements(network, cut.tensors)

    def maps(shapes: tuple[tuple[int, ...], ...]) -> int:
        return sum(len(shape) == len(network.image_shape) for shape in shapes)

    most = max((own, *(shapes for shapes, order in others if order is None)), key=maps)
    return () if most == own else most


def read_networks(artifact: Path) -> tuple[ImportedModel, dict[str, bytes]]:
    """What was imported as ``artifact``, and the ONNX files of its halves.

    Raises:
        FileNotFoundError: There is no artifact.
        ValueError: It was not imported, or defends already.
    """
    config = whole_config(artifact)
    if not isinstance(config.model, ImportedModel) or config.training is not None:
        raise ValueError(f"{artifact}: expected what `splitleak import` wrote, got a target that was trained here")
    return config.model, {half: (artifact / half / NETWORK).read_bytes() for half in ("edge", "cloud")}


def taught(artifact: Path, splits: Splits) -> tuple[Splits, str]:
    """The images of a split to fine-tune an imported network on, and what a right answer is.

    Where their classes are not the network's outputs, their labels are what the whole network answers.

    Raises:
        ValueError: The images do not fit it, or it has one output, of which every answer would be right.
    """
    whole = load_whole(artifact, torch.device("cpu"), engine="auto")
    if whole.classes < 2:
        raise ValueError(f"{artifact}: expected at least two outputs to train for, got {whole.classes}")
    if splits.train.shape != whole.input_shape:
        raise ValueError(f"expected images {whole.input_shape}, as {artifact} takes them, got {splits.train.shape}")
    own = whole.cloud.config.classes
    if are_outputs(splits.train.classes, whole.classes, own):
        return splits, LABELS
    names = own or tuple(map(str, range(whole.classes)))

    def answered(images: Images) -> Images:
        batches = images.pixels.split(_BATCH)
        answers = [whole.predict((pixels.float() / 255).numpy()).argmax(1) for pixels in batches]
        return replace(images, labels=torch.from_numpy(np.concatenate(answers)), classes=names)

    return replace(splits, train=answered(splits.train), test=answered(splits.test)), OWN_ANSWER


def _accuracy(network: Network, splits: Splits | None, names: tuple[str, ...]) -> tuple[str, float]:
    """What a right answer is, and the share of test images that gets one; an import changes no answer."""
    if splits is None:
        return OWN_ANSWER, 1.0
    if splits.test.shape != network.image_shape:
        raise ValueError(f"expected images {network.image_shape}, as the network takes them, got {splits.test.shape}")
    if not are_outputs(splits.test.classes, network.outputs, names):
        return OWN_ANSWER, 1.0
    answers = np.concatenate([each[OUTPUT] for each in network.forward(splits.test.floats().numpy(), [OUTPUT])])
    return LABELS, float((answers.argmax(1) == splits.test.labels.numpy()).mean())

"""splitleak in memory: capture what crosses a cut, rebuild it, and score what was rebuilt, of any network.

No server is needed and nothing is printed. What these functions are given is what an attacker has: `attack` never sees
the victims' images, and `score` never sees the attack. Functions raise ValueError where arrays do not fit together, and
PermissionError where an attack needs what it was not given.
"""

import copy
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitleak.attacker.base import Attack, Knowledge, Query, Run, build
from splitleak.attacker.diffusion import load_prior
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.training.flattened import laid_out
from splitleak.config import Preset
from splitleak.datasets.images import Images
from splitleak.datasets.plain import unlabelled
from splitleak.defenses.base import Defense
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.errors import first_line
from splitleak.eval.record.metrics import measured_victims
from splitleak.eval.record.schema import Score
from splitleak.eval.record.scoring import check_disjoint
from splitleak.graphs.user_module import float_hint
from splitleak.logs import Report, silent
from splitleak.seeding import resolve_device
from splitleak.training.modules import evaluating, freeze

Array = Tensor | NDArray[Any]
Network = nn.Module | Callable[[Tensor], Tensor]

_COMPARED = 8  # pictures of the attacker's, on which a graph must answer as the network that it was exported of


@dataclass(frozen=True)
class Rebuilt:
    """What an attack made: images ``(N, C, H, W)`` in [0, 1], in the order of what was captured.

    ``queries`` counts the images it sent, ``findings`` holds its own diagnostics, on its own images.
    """

    images: Tensor
    queries: int
    findings: Mapping[str, object]


def capture(encoder: Network, images: Array, *, batch_size: int = 64) -> Tensor:
    """What crosses the wire: the output of ``encoder`` for ``images``, as a tap reads it.

    Args:
        encoder: The device's half: a torch module (in eval mode; it is not changed) or any function from images
            ``(N, C, H, W)`` to features ``(N, *shape)``, one tensor or array. A function is called as it is: a module
            inside it must be in eval mode already, else its batch normalisation learns from the images. `defend` adds a
            defense.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8.
        batch_size: Images encoded at once.

    Returns:
        float32 features ``(N, *shape)`` on the CPU.

    Raises:
        ValueError: The encoder gives something else than real numbers, a row an image, or arrays do not fit it.
    """
    if batch_size < 1:
        raise ValueError(f"expected batches of at least 1 image, got {batch_size}")
    return torch.cat([_answers(encoder, batch) for batch in _images(images, "images").split(batch_size)])


def defend(encoder: Network, *defenses: str | Mapping[str, Any], seed: int | None = None) -> Callable[[Tensor], Tensor]:
    """``encoder`` with defenses on what it sends, in their order; noise is drawn anew at each call.

    Args:
        encoder: As for `capture`.
        defenses: By name (``"gaussian-noise"``), or as a table with settings
            (``{"name": "gaussian-noise", "sigma": 0.1}``).
        seed: Of the noise; None: from the operating system.

    Raises:
        ValueError: A defense is unknown, or is trained with the network, as a bottleneck is: `splitleak train` does.
    """
    configs = [
        DefenseConfig.parse({"name": each} if isinstance(each, str) else each, source="defense") for each in defenses
    ]
    stack = Stack.build(configs).eval()
    for defense in stack:
        if type(defense).prepare is not Defense.prepare or not defense.acts_on_wire():
            raise ValueError(
                f"expected a defense that needs no training, got {defense.name!r}; `splitleak train` has all"
            )
    stack.seed(seed, torch.device("cpu"))

    def defended(images: Tensor) -> Tensor:
        with torch.no_grad():
            sent: Tensor = stack(_answers(encoder, images))
            return sent

    return defended


def attack(
    captured: Array,
    *,
    public: Array,
    query: Network | Query | None = None,
    encoder: nn.Module | None = None,
    labels: Array | None = None,
    prior: Path | str | None = None,
    parts: Sequence[Sequence[int]] | None = None,
    name: str = "decoder",
    preset: Preset = "cpu",
    max_queries: int | None = None,
    draws: int = 1,
    seed: int = 0,
    device: str = "auto",
    report: Report = silent,
    checkpoint: Path | None = None,
    **settings: object,
) -> Rebuilt:
    """Rebuilds images from what was captured of them.

    Args:
        captured: Features ``(N, *shape)`` of the victims' images; for ``prediction-inversion`` the probabilities
            ``(N, K)`` that they share, zero where they tell none.
        public: The attacker's own images ``(M, C, H, W)``, floats in [0, 1] or uint8, of the size to be rebuilt; no
            victim's is among them.
        query: The deployed device as a black box, as for `capture`, defenses included, or a service that gives all
            probabilities; or a `Query`.
        encoder: The device's weights, for a white-box attack; they are copied.
        labels: ``(M,)``, the classes of the public images.
        prior: Folder that ``splitleak prior`` wrote, for an attack that searches one; None: it trains its own on
            ``public``.
        parts: The shapes of the tensors that features ``(N, D)`` pack, flattened, one after another; None: one, which
            answers to queries tell.
        name: Which attack, see ``splitleak list attacks`` or `ATTACKS`.
        preset: ``cpu``, or ``paper`` for the published settings.
        max_queries: Images it may send at most; fewer than there are public ones use as many of them.
        draws: How often it asks for each image, to learn what noise looks like.
        seed: Of everything random.
        device: auto, cpu, cuda or cuda:N.
        report: Called with the progress.
        checkpoint: File from which an interrupted run resumes.
        settings: Of the attack, on top of the preset: ``epochs=5``.
    """
    features, own = _floats(captured, "captured"), _images(public, "public")
    kind = build(ATTACKS, name, preset, settings)
    assert isinstance(kind, Attack)
    ready = query is None or isinstance(query, Query)
    if ready and (max_queries is not None or draws != 1):
        got = "none" if query is None else "a Query, which has its own"
        raise ValueError(f"expected a network or function to query beside max_queries or draws, got {got}")
    asked = query if query is None or isinstance(query, Query) else _query(query, max_queries, draws)
    classes = None if labels is None else torch.as_tensor(labels).long()
    if classes is not None and classes.shape != (len(own),):
        raise ValueError(f"expected labels ({len(own)},), one a public image, got {tuple(classes.shape)}")
    if asked is not None:
        chosen = asked.affordable(len(own), seed)
        own = own if chosen is None else own[chosen]
        classes = classes if chosen is None or classes is None else classes[chosen]
    chosen_device = resolve_device(device)
    known = Knowledge(
        captured=features,
        image_shape=(own.shape[1], own.shape[2], own.shape[3]),
        public=own,
        query=asked,
        labels=classes,
        encoder=None if encoder is None else freeze(copy.deepcopy(encoder), chosen_device),
        prior=None if prior is None else load_prior(Path(prior), chosen_device),
        kind=kind.takes,
        parts=None if parts is None else tuple(tuple(map(int, shape)) for shape in parts),
    )
    known = laid_out(known, kind, seed)
    made = kind(known, Run(seed=seed, device=chosen_device, report=report, checkpoint=checkpoint))
    return Rebuilt(made, 0 if asked is None else asked.made, dict(kind.findings))


def scan(
    network: Network | str | Path, *, public: Array, victims: Array, report: Report = silent, **settings: object
) -> dict[str, Any]:
    """What a network leaks at each place where it can be cut, by a linear map and without training.

    Args:
        network: A torch module (in eval mode; it is not changed) or any function of torch from images to one output,
            or the path of an ONNX file.
        public: The attacker's images ``(M, C, H, W)``, floats in [0, 1] or uint8, as the network takes them.
        victims: Those that are attacked ``(N, C, H, W)``.
        report: Called with the progress.
        settings: Of the scan: ``cuts=10`` (at most, evenly spaced over all), ``noise=(0.5,)``, ``bottleneck=(8,)``,
            ``latency=0``, ``tensors=1``, ``seed=0``.

    Returns:
        The document that ``splitleak scan --json`` prints, but for what names model and images: ``rows`` holds one for
        each cut and defense.

    Raises:
        ValueError: It is no network, or one that torch cannot write as ONNX, or arrays do not fit it; or a victim is
            among the public images.
    """
    from splitleak.eval.scan.scan import ScanConfig
    from splitleak.eval.scan.scan import scan as measure
    from splitleak.graphs.importing import NetworkConfig, network_of, read_network
    from splitleak.graphs.user_module import export_module

    own, attacked = unlabelled(_images(public, "public")), unlabelled(_images(victims, "victims"))
    check_disjoint(own.hashes(), attacked)
    if isinstance(network, (str, Path)):
        found = read_network(Path(network), NetworkConfig(), own.shape)
    elif callable(network):
        module = network if isinstance(network, nn.Module) else _Function(network)
        with evaluating(module):
            found = network_of(
                export_module(module, {"image": own.shape}, pictures=own.floats()[:_COMPARED]),
                NetworkConfig(),
                own.shape,
            )
    else:
        raise ValueError(f"expected a network, or the path of an ONNX file, got {type(network).__name__}")
    document, _ = measure(found, own, attacked, ScanConfig.parse(settings, source="scan"), report)
    return document


def linkage(
    encoder: Network,
    *,
    public: Array,
    victims: Array,
    public_labels: Array | None = None,
    labels: Array | None = None,
    report: Report = silent,
    **settings: object,
) -> dict[str, Any]:
    """What features tell without a picture: whether a victim's is found again, of which class it is.

    Args:
        encoder: As for `capture`, the defenses of `defend` included; it is sent each picture several times.
        public: The attacker's images ``(M, C, H, W)``, floats in [0, 1] or uint8.
        victims: Others ``(N, C, H, W)``.
        public_labels: ``(M,)``, classes of the public images; none: no probe, and no verification.
        labels: ``(N,)``, those of the victims.
        report: Called with the progress.
        settings: Of the measure: ``crossings=3``, ``views=6``, ``seed=0``.

    Returns:
        The document that ``splitleak linkage --json`` prints, but for what names the target.

    Raises:
        ValueError: Arrays do not fit together, or a victim is among the public images.
    """
    from splitleak.eval.targets.linkage import LinkageConfig
    from splitleak.eval.targets.linkage import linkage as measure

    own, attacked = unlabelled(_images(public, "public")), unlabelled(_images(victims, "victims"))
    check_disjoint(own.hashes(), attacked)
    if (labels is None) != (public_labels is None):
        raise ValueError("expected labels of the victims and of the public images, or none, got those of one set")
    if labels is not None and public_labels is not None:
        told = [torch.as_tensor(each).long() for each in (public_labels, labels)]
        names = tuple(map(str, range(1 + max(int(each.max()) for each in told))))
        own, attacked = (Images(each.pixels, mine, names) for each, mine in zip((own, attacked), told, strict=True))
    config = LinkageConfig.parse(settings, source="linkage")
    return measure(lambda images: capture(encoder, images), own, attacked, config, report=report)


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def score(rebuilt: Rebuilt | Array, truth: Array) -> dict[str, Score]:
    """The scores of rebuilt images against the true ones, in the same order: by name, mean, deviation and each value.

    Args:
        rebuilt: What `attack` gave, or images ``(N, C, H, W)`` in [0, 1].
        truth: The victims' images, of the same shape.
    """
    images = _images(rebuilt.images if isinstance(rebuilt, Rebuilt) else rebuilt, "rebuilt")
    true = _images(truth, "truth")
    if images.shape != true.shape:
        raise ValueError(f"expected rebuilt images {tuple(true.shape)}, as the true ones, got {tuple(images.shape)}")
    return measured_victims(images, true)


def _query(encoder: Network, budget: int | None, draws: int) -> Query:
    return Query(lambda images: capture(encoder, images), budget, draws=draws)


@torch.no_grad()
def _answers(encoder: Network, images: Tensor) -> Tensor:
    """float32 features on the CPU, one row an image; a module's mode, and the images, are as before afterwards."""
    if isinstance(encoder, nn.Module):
        device = next((weight.device for weight in encoder.parameters()), torch.device("cpu"))
        with evaluating(encoder):
            try:
                sent = encoder(images.to(device, copy=True))
            except RuntimeError as error:
                if not (hint := float_hint(encoder)):
                    raise  # the encoder's own
                raise ValueError(f"expected an encoder of float32 images, but {first_line(error)}{hint}") from error
    else:
        sent = encoder(images.clone())
    if not isinstance(sent, (Tensor, np.ndarray)) or (isinstance(sent, np.ndarray) and sent.dtype.kind not in "biufc"):
        raise ValueError(f"expected one tensor of features ({len(images)}, ...), a row an image, got {_what(sent)}")
    features = torch.as_tensor(sent)
    if features.is_complex():
        raise ValueError(f"expected real features, got {sent.dtype}: send both parts, as torch.view_as_real gives them")
    if features.ndim < 2 or len(features) != len(images):
        raise ValueError(f"expected features ({len(images)}, ...), a row an image, got {tuple(features.shape)}")
    return features.detach().float().cpu()


def _what(sent: object) -> str:
    """What is not one tensor, in words."""
    if isinstance(sent, np.ndarray):
        return f"an array of {sent.dtype}"
    count = f" of {len(sent)}" if isinstance(sent, Sized) else ""
    return f"{type(sent).__name__}{count}"


def _floats(values: Array, name: str) -> Tensor:
    made = torch.as_tensor(values).detach().float().cpu()
    if made.ndim < 2 or not len(made) or not bool(made.isfinite().all()):
        what = "finite" if bool(made.isfinite().all()) else "not all finite"
        raise ValueError(f"expected finite values (N, ...) as {name}, got {what} {tuple(made.shape)}")
    return made


def _images(images: Array, name: str) -> Tensor:
    """float32 ``(N, C, H, W)`` in [0, 1] on the CPU."""
    given = torch.as_tensor(images).detach().cpu()
    floats = given.float() / 255 if given.dtype == torch.uint8 else given.float()
    if floats.ndim != 4 or 0 in floats.shape:
        raise ValueError(f"expected images (N, C, H, W) as {name}, got {tuple(floats.shape)}")
    low, high = floats.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"expected floats in [0, 1] or uint8 as {name}, got {low:g} to {high:g}")
    return floats

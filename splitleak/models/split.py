"""Split model: a network in two halves, the encoder on the edge and the head in the cloud."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from splitleak.config import Config
from splitleak.datasets.statistics import Normalisation
from splitleak.models import ARCHITECTURES, ArchitectureName
from splitleak.models.grids import channels_last
from splitleak.models.normalise import Normalise


class ModelConfig(Config):
    """Architecture, width, image shape, number of classes, and the cut (split point)."""

    architecture: ArchitectureName = "vgg11"
    cut: int | None = Field(
        default=None,
        description="leading positions on the edge; by default vgg11 4, resnet20 5, vgg16 6, the others 2",
    )
    width: float = Field(
        default=1.0,
        gt=0,
        description="factor on every layer's width, rounded half up, at least 1; not on widths in multiples of classes",
    )
    channels: int = Field(ge=1, description="1 for grey images, 3 for colour")
    size: int = Field(ge=1, description="height and width of the images, in pixels")
    classes: int = Field(ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = ARCHITECTURES[self.architecture]
        if not 1 <= self.position <= known.positions:
            raise ValueError(f"expected {self.architecture} to be cut at 1..{known.positions}, got {self.position}")
        if self.size < known.smallest:
            raise ValueError(
                f"expected images of at least {known.smallest} pixels for {self.architecture}, which pools them, "
                f"got {self.size}"
            )
        return self

    @property
    def position(self) -> int:
        """The cut, by default the architecture's."""
        return ARCHITECTURES[self.architecture].default_cut if self.cut is None else self.cut

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.channels, self.size, self.size


class SplitModel(nn.Module):
    """``head(encoder(images))``: images ``(N, *image_shape)`` in [0, 1] to logits ``(N, classes)``.

    Defenses may replace ``encoder`` and ``head`` by modules that wrap them, as a bottleneck does.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.image_shape = image_shape

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Output shape of the current encoder for one image: ``(C, H, W)`` at a cut between convolutions."""
        return output_shape(self.encoder, self.image_shape)

    def send_channels_first(self) -> None:
        """Has a map ``(H, W, C)`` cross as ``(C, H, W)``, and the head put it back; other features stay as they are.

        For defenses that act on channels; which axis these are is told from the picture, see `channels_last`.
        """
        if channels_last(self.feature_shape, self.image_shape[1:]):
            self.encoder = nn.Sequential(self.encoder, _Turned(0, 3, 1, 2))
            self.head = nn.Sequential(_Turned(0, 2, 3, 1), self.head)


class _Turned(nn.Module):
    """The axes of a tensor in another order."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(self.axes).contiguous()


def build(config: ModelConfig, normalisation: Normalisation | None = None) -> SplitModel:
    """The untrained network of ``config``; its encoder begins with the image normalisation (None: no normalisation).

    Initial weights come from torch's global generator. Under ``torch.device("meta")`` none are drawn, and
    ``load_state_dict`` with ``assign=True`` completes either half: mean and std are part of the encoder's state.

    Raises:
        ValueError: The normalisation does not have one entry per channel.
    """
    architecture = ARCHITECTURES[config.architecture]
    positions, classifier = architecture.build(config.channels, config.classes, config.width, config.size)
    named = [(f"position{index}", module) for index, module in enumerate(positions, start=1)]
    edge, cloud = named[: config.position], named[config.position :]
    normalise = Normalise(config.channels, normalisation)
    encoder = nn.Sequential(OrderedDict([("normalise", normalise), *edge]))
    architecture.initialise_edge(encoder)
    head = nn.Sequential(OrderedDict([*cloud, ("classifier", classifier)]))
    return SplitModel(encoder, head, config.image_shape)


def output_shape(module: nn.Module, input_shape: tuple[int, ...], rows: int = 2) -> tuple[int, ...]:
    """The output shape of ``module`` for ``rows`` inputs of ``input_shape``, both without batch dimension.

    Shape inference on the meta device: nothing is computed, and no running statistic, mode or generator changes. Batch
    normalisation, which keeps a shape, is passed over: there it takes torch 20 times as long as all else.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    with torch.no_grad(), _WithoutBatchNorm():  # two inputs: in training mode, some refuse a single value a channel
        outputs = torch.func.functional_call(module, shapes, (torch.empty(rows, *input_shape, device="meta"),))
    return tuple(outputs.shape[1:])


class _WithoutBatchNorm(TorchFunctionMode):
    """Under this mode, batch normalisation of as many channels as it is of gives its input back."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # torch's own
        if func is nn.functional.batch_norm and args[1] is not None and args[0].shape[1] == len(args[1]):
            return args[0]
        return func(*args, **(kwargs or {}))

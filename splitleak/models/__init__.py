"""Networks in two halves, and what computes them. These tables are all that knows them by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from splitleak.tables import Imported, Table

if TYPE_CHECKING:
    from splitleak.models.architecture import Architecture
    from splitleak.models.engine import Engine

ARCHITECTURES: Table["Architecture"] = Table(
    "model",
    {
        "vgg11": Imported("splitleak.models.vgg:VGG11"),
        "resnet20": Imported("splitleak.models.resnet:RESNET20"),
        "cnn": Imported("splitleak.models.cnn:CNN"),
        "conv3": Imported("splitleak.models.conv:CONV3"),
        "conv4": Imported("splitleak.models.conv:CONV4"),
        "mcnn": Imported("splitleak.models.digits:MCNN"),
        "scnn": Imported("splitleak.models.digits:SCNN"),
        "vgg16": Imported("splitleak.models.vgg:VGG16"),
    },
    group="splitleak.architectures",
    base=Imported("splitleak.models.architecture:Architecture"),
)

ENGINES: Table["Callable[..., Engine]"] = Table(
    "engine",
    {
        "auto": Imported("splitleak.models.engine:auto_engine"),
        "onnx": Imported("splitleak.models.engine:onnx_engine"),
        "fused": Imported("splitleak.models.engine:fused_engine"),
        "torch": Imported("splitleak.models.engine:torch_engine"),
    },
)
"""Each takes a module, a device, probes and the memory format of its rows, see `splitleak.models.engine`."""

TRITON_BACKENDS: Table[str] = Table(
    "Triton backend",
    {
        "onnxruntime": "Triton's own ONNX Runtime",
        "python": "for a Triton without the other; its Python needs numpy and onnxruntime",
    },
)

ArchitectureName = Annotated[str, AfterValidator(ARCHITECTURES.known)]
EngineName = Annotated[str, AfterValidator(ENGINES.known)]

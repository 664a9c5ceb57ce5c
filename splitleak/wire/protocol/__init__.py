"""The wire: tensors as messages of the Open Inference Protocol. This table alone knows the codecs by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from splitleak.tables import Imported, Table

if TYPE_CHECKING:
    from splitleak.wire.protocol.codec import FloatArray, WireTensor

CODECS: Table["Callable[[FloatArray], WireTensor]"] = Table(
    "codec",
    {
        "fp32": Imported("splitleak.wire.protocol.codec:encode_fp32"),
        "fp16": Imported("splitleak.wire.protocol.codec:encode_fp16"),
        "uint8": Imported("splitleak.wire.protocol.codec:encode_uint8"),
        "fp16+deflate": Imported("splitleak.wire.protocol.codec:encode_fp16_deflate"),
        "uint8+deflate": Imported("splitleak.wire.protocol.codec:encode_uint8_deflate"),
    },
)

Codec = Annotated[str, AfterValidator(CODECS.known)]
"""The name of a codec."""

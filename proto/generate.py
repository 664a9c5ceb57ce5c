"""Writes the Python stubs of ``open_inference.proto`` into ``splitleak/wire/protocol/pb``.

``python proto/generate.py [ROOT]``; ROOT is where ``splitleak/`` lies (default: this repository). The proto folder is
mapped onto the package's path, so the stubs import each other by their full package name and need no editing.
"""

import sys
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped]
from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
PACKAGE = "splitleak/wire/protocol/pb"


def generate(root: Path) -> None:
    """Writes ``open_inference_pb2.py``, ``.pyi`` and ``open_inference_pb2_grpc.py`` under ``root``.

    Raises:
        RuntimeError: protoc refused the source; its complaint is on stderr.
    """
    (root / PACKAGE).mkdir(parents=True, exist_ok=True)
    code: int = protoc.main(
        [
            "protoc",
            f"-I{PACKAGE}={SOURCES}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            *(f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")),
            f"{PACKAGE}/open_inference.proto",
        ]
    )
    if code != 0:
        raise RuntimeError(f"expected protoc to exit with 0, got {code}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES.parent)

"""Writes the Python stubs of ``open_inference.proto`` into ``splitleak/wire/protocol/pb``.

``python proto/generate.py [ROOT]``; ROOT is where ``splitleak/`` lies (default: this repository). The proto folder is
mapped onto the package's path, so the stubs import each other by their full package name.

Protobuf registers each name once in a process's default pool, and other projects' stubs of the protocol (those of
tritonclient, of KServe) have the same names. So the stubs are given a pool of their own, to be imported beside those.
"""

import sys
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped]
from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
PACKAGE = "splitleak/wire/protocol/pb"
DEFAULT_POOL, OWN_POOL = "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"


def generate(root: Path) -> None:
    """Writes ``open_inference_pb2.py``, ``.pyi`` and ``open_inference_pb2_grpc.py`` under ``root``.

    Raises:
        RuntimeError: protoc refused the source (its complaint is on stderr), or writes stubs of another kind.
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
    stubs = root / PACKAGE / "open_inference_pb2.py"
    text = stubs.read_text(encoding="utf-8")
    if text.count(DEFAULT_POOL) != 1:
        raise RuntimeError(f"expected {DEFAULT_POOL} once in {stubs}, got it {text.count(DEFAULT_POOL)} times")
    stubs.write_text(text.replace(DEFAULT_POOL, OWN_POOL), encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES.parent)
